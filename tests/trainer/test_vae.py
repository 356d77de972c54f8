"""Training VAEs: the bound by hand, every likelihood and objective, binarisation, resuming, trained models, bad flags."""

import json
import re
import subprocess
import sys
import time
from dataclasses import fields

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from PIL import Image
from safetensors.torch import load_file
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

from hfgen.configs.training import DataConfig, OptimizationConfig, RunConfig
from hfgen.core.binarize import binarize, fixed_uniform
from hfgen.core.errors import HfgenError
from hfgen.core.history import read_history
from hfgen.core.media import to_model_range
from hfgen.core.random import Stream, epoch_order, seeded
from hfgen.data.digits import embedded_digits
from hfgen.data.subset import draw_rows
from hfgen.families.vae.flags import VAEFlags
from hfgen.hub.loading import load
from hfgen.models import LIKELIHOODS, VAE_PRESETS, build_vae
from hfgen.pipelines import UnconditionalDiffusionPipeline, VAEPipeline
from hfgen.trainer.output import OutputFolder

WEIGHTS = "vae/diffusion_pytorch_model.safetensors"
OBJECTIVES = ("sgvb_b", "sgvb_a", "iw", "score_function", "score_function_no_baseline")
TERMS = ("loss", "reconstruction", "kl")
# one step at learning rate 0, the first of the warm-up: what is saved are the initial weights
NO_STEP = {"num_epochs": None, "max_train_steps": 1}


def readings(out, prefix):
    """The three terms over the run, {name: list}, with their steps."""
    rows = [row for row in read_history(out / "history.jsonl") if f"{prefix}_loss" in row]
    return {"step": [row["step"] for row in rows]} | {name: [row[f"{prefix}_{name}"] for row in rows] for name in TERMS}


def digits(split, count=None, seed=0):
    """Images in [-1, 1], (count, 1, 8, 8), those that a training of so many draws by its seed."""
    rows = embedded_digits()[split]
    labels = torch.tensor(rows["label"])
    images = rows[draw_rows(count or len(labels), len(labels), labels, seed=seed).tolist()]["image"]
    return to_model_range(torch.from_numpy(np.stack([np.array(image) for image in images]))[:, None])


def load_vae(out):
    return load(out).pipeline


def weights_of(out):
    return load_file(out / WEIGHTS)


def same_weights(one, other):
    a, b = weights_of(one), weights_of(other)
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


# the bound by hand


def numbers_by_hand(seed, stream, shape, uniforms, count):
    """Normal and uniform numbers of the first rows of step 0: a generator for each block of 32 rows."""
    blocks = [seeded("cpu", seed, stream, 0, block) for block in range(-(-count // 32))]
    drawn = [(torch.randn(32, *shape, generator=g), torch.rand(32, uniforms, generator=g)) for g in blocks]
    return [torch.cat(parts)[:count] for parts in zip(*drawn, strict=True)]


@torch.no_grad()
def bound_by_hand(vae, x, noise, objective):
    """Means over the images x of the three terms, by torch.distributions; noise (L, B, latent_size)."""
    q = vae.encode(x).latent_dist
    q = Independent(Normal(q.mean, q.std), 1)
    prior = Independent(Normal(torch.zeros(3), torch.ones(3)), 1)
    z = q.base_dist.loc + q.base_dist.scale * noise
    p = Independent(Bernoulli(logits=vae.decode_outputs(z)), 3)
    log_p, log_ratio = p.log_prob((x + 1) / 2), q.log_prob(z) - prior.log_prob(z)
    kl = kl_divergence(q, prior) if objective == "sgvb_b" else log_ratio.mean(0)
    loss = -log_p.mean(0) + kl
    if objective == "iw":
        loss = -(log_p - log_ratio).exp().mean(0).log()  # of some -45 nats: no overflow in float32
    return [float(term.mean()) for term in (loss, -log_p.mean(0), kl)]


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["bernoulli", "bernoulli_static"])
@pytest.mark.parametrize("objective", ["sgvb_b", "sgvb_a", "iw"])
def test_readings_are_the_bound_on_the_right_images_with_the_right_noise(train_a_vae, likelihood, objective):
    samples = 3
    out = train_a_vae(
        likelihood=likelihood, objective=objective, num_latent_samples=samples, seed=5, eval_batch_size=100,
        logging_steps=1, **NO_STEP,
    )  # fmt: skip
    vae = load_vae(out).vae
    train, test = digits("train", 64, seed=5), digits("test")
    torch.testing.assert_close(vae.pixel_mean, train.mean(0), rtol=0, atol=1e-6)
    rows = epoch_order(5, 0, 64)[:16]
    for prefix, stream, grey, numbers, spare in (
        ("train", Stream.TRAINING_NOISE, train[rows], rows, 1),
        ("validation", Stream.VALIDATION_NOISE, test, torch.arange(297), 0),
    ):
        pixels = 64 if likelihood == "bernoulli" else 0
        noise, uniform = numbers_by_hand(5, stream, (samples, 3), pixels + spare, len(grey))
        fixed = fixed_uniform(numbers, 64, (5, stream))
        u = uniform[:, :64] if likelihood == "bernoulli" else fixed
        x = torch.where(u.view_as(grey) < (grey + 1) / 2, 1.0, -1.0)
        expected = bound_by_hand(vae, x, noise.transpose(0, 1), objective)
        shown = readings(out, prefix)
        # float32 sums of 64 pixels of order 1 in another order; other noise changes the KL by more than 0.01
        assert [shown[name][0] for name in TERMS] == pytest.approx(expected, abs=1e-4)


def test_held_out_kl_is_that_of_the_pipeline_that_is_saved(train_a_vae):
    """With the averaged weights, over all held-out images in uneven batches, in evaluation."""
    out = train_a_vae(likelihood="discretized_logistic", eval_batch_size=100, num_epochs=20, learning_rate=1e-2)
    kl = load_vae(out).encode(digits("test") / 2 + 0.5).kl().mean()
    shown = readings(out, "validation")["kl"]
    # images are divided by 255 in one place, by 127.5 in the other
    assert shown[-1] == pytest.approx(float(kl), rel=1e-5)
    assert shown[-2] != pytest.approx(float(kl), rel=1e-3)


# every likelihood and objective


OF_GREY = [name for name in LIKELIHOODS if name != "discretized_logistic_rgb"]
EACH = [(likelihood, "sgvb_b") for likelihood in OF_GREY] + [("bernoulli", name) for name in OBJECTIVES[1:]]


@pytest.mark.slow
@pytest.mark.parametrize(("likelihood", "objective"), EACH)
def test_every_likelihood_and_objective_learns_and_leaves_a_pipeline(train_a_vae, likelihood, objective):
    out = train_a_vae(
        likelihood=likelihood, objective=objective, num_latent_samples=2, num_epochs=15, learning_rate=5e-3,
        use_ema=False, checkpointing_steps=100,
    )  # fmt: skip
    train, held_out = readings(out, "train"), readings(out, "validation")
    assert train["step"] == list(range(2, 61, 2))
    assert held_out["step"] == list(range(4, 61, 4))
    for terms in (train, held_out):
        loss, both = np.array(terms["loss"]), np.add(terms["reconstruction"], terms["kl"])
        assert np.isfinite(loss).all()
        if objective == "iw":
            # Jensen: the logarithm of the mean is more than the mean of the logarithms
            assert (loss < both).all()
        else:
            assert loss == pytest.approx(both, rel=1e-6)
        # the network of one layer gets from 45 nats to 34, or from 350 to 260
        assert loss[-1] < 0.93 * loss[0]
    pipeline = load_vae(out)
    assert pipeline.vae.config.likelihood == likelihood
    assert pipeline.vae.config.latent_size == 3
    assert weights_of(out).keys() == pipeline.vae.state_dict().keys()
    (last,) = out.glob("checkpoint-*")
    trained = load_file(last / "model.safetensors")
    assert all(value.equal(pipeline.vae.state_dict()[name]) for name, value in trained.items())
    images = pipeline(2, torch.Generator().manual_seed(0), output_type="np").images
    assert images.shape == (2, 8, 8, 1)
    assert np.isfinite(images).all()


def test_one_importance_sample_is_the_other_estimator(train_a_vae, tmp_path):
    iw, sgvb_a = (
        train_a_vae(objective=name, output_dir=tmp_path / name, num_epochs=None, max_train_steps=2, logging_steps=1)
        for name in ("iw", "sgvb_a")
    )
    for prefix in ("train", "validation"):
        for name in TERMS:
            assert readings(iw, prefix)[name] == pytest.approx(readings(sgvb_a, prefix)[name], rel=1e-5)


def test_flags_reach_the_model(train_a_vae):
    out = train_a_vae(likelihood="gaussian", gaussian_variance=0.25, latent_size=5, **NO_STEP)
    config = load_vae(out).vae.config
    assert (config.likelihood, config.gaussian_variance, config.latent_size) == ("gaussian", 0.25, 5)
    assert list(config.hidden_sizes) == [16]
    assert (config.in_channels, config.sample_size) == (1, 8)


def test_convolutions_on_enlarged_digits_with_the_averaged_weights(train_a_vae, tmp_path):
    (tmp_path / "conv.json").write_text(json.dumps({"_class_name": "ConvVAE", "block_out_channels": [4, 4]}))
    out = train_a_vae(model_config_name_or_path=tmp_path / "conv.json", resolution=12, num_epochs=1)
    pipeline = load_vae(out)
    assert type(pipeline.vae).__name__ == "ConvVAE"
    assert pipeline(1, output_type="pt").images.shape == (1, 1, 12, 12)
    last, average = (load_file(out / "checkpoint-4" / f"{name}.safetensors") for name in ("model", "ema"))
    saved = weights_of(out)
    assert average
    assert all(saved[name].equal(value) for name, value in average.items())
    assert not all(saved[name].equal(value) for name, value in last.items())


# warm-up of the KL term


def test_kl_warm_up_weighs_the_training_loss_but_not_the_held_out_one(train_a_vae, tmp_path):
    flags = {"logging_steps": 1, "likelihood": "discretized_logistic"}
    plain = train_a_vae(output_dir=tmp_path / "plain", **flags)
    warm = train_a_vae(output_dir=tmp_path / "warm", kl_warmup_steps=8, **flags)
    train = readings(warm, "train")
    weight = np.minimum(np.array(train["step"]) / 8, 1)
    assert train["loss"] == pytest.approx(train["reconstruction"] + weight * train["kl"], rel=1e-6)
    held_out = readings(warm, "validation")
    assert held_out["loss"] == pytest.approx(np.add(held_out["reconstruction"], held_out["kl"]), rel=1e-6)
    # the first step has the same weights, images and noise in both
    first, other = ({name: readings(out, "train")[name][0] for name in TERMS} for out in (warm, plain))
    assert (first["reconstruction"], first["kl"]) == (other["reconstruction"], other["kl"])
    assert other["loss"] - first["loss"] == pytest.approx(7 / 8 * first["kl"], abs=1e-4)
    assert first["kl"] > 0.01
    assert not same_weights(warm, plain)


def test_the_importance_weighted_bound_refuses_a_warm_up(train_a_vae, tiny_vae_flags):
    with pytest.raises(HfgenError, match=r"^kl_warmup_steps=3: the importance-weighted bound has no KL term.*pass 0$"):
        train_a_vae(objective="iw", kl_warmup_steps=3)
    assert not tiny_vae_flags["output_dir"].exists()


# binarisation


@pytest.fixture
def binarized(monkeypatch):
    """What is binarised from now on: {stream: list of (rows, grey images, what became of them)}."""
    seen = {Stream.TRAINING_NOISE: [], Stream.VALIDATION_NOISE: []}

    def watch(kind, x, uniform, rows, key):
        result = binarize(kind, x, uniform, rows, key)
        seen[key[1]].append((rows, x.clone(), result))
        return result

    monkeypatch.setattr("hfgen.families.vae.training.binarize", watch)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", OF_GREY)
def test_pixels_are_drawn_anew_each_epoch_or_once_or_not_at_all(train_a_vae, binarized, likelihood):
    train_a_vae(likelihood=likelihood)
    grey = digits("train", 64)
    steps = binarized[Stream.TRAINING_NOISE]
    assert len(steps) == 12
    epochs = []
    for epoch in range(3):
        images = torch.empty(64, 1, 8, 8)
        for rows, x, result in steps[4 * epoch : 4 * epoch + 4]:
            assert x.equal(grey[rows])  # the rows are those of the images
            images[rows] = result
        epochs.append(images)
    first, second, third = epochs
    changed = [int((a != b).flatten(1).any(1).sum()) for a, b in ((first, second), (second, third), (first, third))]
    if likelihood == "bernoulli":
        # of some 25 grey pixels an image, each of which changes in some 3 epochs of 10: all images do
        assert changed == [64, 64, 64]
    else:
        assert changed == [0, 0, 0]
    if likelihood.startswith("bernoulli") and likelihood != "bernoulli_grey":
        assert set(first.unique().tolist()) == {-1.0, 1.0}
        choice = (grey > -1) & (grey < 1)
        assert first[~choice].equal(grey[~choice])
        # all epochs' white pixels against the sum of grey values, five standard errors: static epochs are the same
        share, drawn = (grey + 1) / 2, 3 if likelihood == "bernoulli" else 1
        excess = sum((images > 0).float() - share for images in epochs[:drawn]).sum()
        assert abs(excess) < 5 * (drawn * (share * (1 - share)).sum()).sqrt()
    else:
        assert first.equal(grey)


@pytest.mark.parametrize("likelihood", ["bernoulli", "bernoulli_static"])
def test_held_out_images_are_binarised_alike_at_each_evaluation(train_a_vae, binarized, likelihood):
    train_a_vae(likelihood=likelihood, eval_batch_size=100)
    batches = binarized[Stream.VALIDATION_NOISE]
    evaluations = [torch.cat([result for _, _, result in batches[i : i + 3]]) for i in (0, 3, 6)]
    assert len(batches) == 9
    assert torch.cat([x for _, x, _ in batches[:3]]).equal(digits("test"))
    assert evaluations[0].equal(evaluations[1])
    assert evaluations[0].equal(evaluations[2])
    # training image i and held-out image i do not share their numbers
    white = [images.flatten(1)[:16, 24:40] for images in (evaluations[0], binarized[Stream.TRAINING_NOISE][0][2])]
    assert not white[0].equal(white[1])


def test_static_pixels_belong_to_the_seed(train_a_vae, binarized, tmp_path):
    images = []
    for seed in (0, 0, 1):
        binarized[Stream.VALIDATION_NOISE].clear()
        train_a_vae(likelihood="bernoulli_static", seed=seed, output_dir=tmp_path / str(len(images)), **NO_STEP)
        images.append(torch.cat([result for _, _, result in binarized[Stream.VALIDATION_NOISE]]))
    assert images[0].equal(images[1])
    assert not images[0].equal(images[2])


# the same run in other ways


RUNS = [
    {"likelihood": "bernoulli", "kl_warmup_steps": 9},
    {"likelihood": "bernoulli_static", "objective": "iw", "num_latent_samples": 3},
    {"likelihood": "gaussian", "objective": "score_function", "use_ema": False},
]


@pytest.mark.slow
@pytest.mark.parametrize("flags", RUNS, ids=lambda flags: flags["likelihood"])
def test_resuming_gives_the_weights_of_a_run_never_interrupted(train_a_vae, tmp_path, flags):
    flags = {**flags, "random_flip": True, "checkpointing_steps": 6}  # step 6 is in the middle of the second epoch
    whole = train_a_vae(output_dir=tmp_path / "whole", **flags)
    resumed = train_a_vae(output_dir=tmp_path / "resumed", resume_from_checkpoint=whole / "checkpoint-6", **flags)
    assert same_weights(whole, resumed)
    assert not all(
        value.equal(load_file(whole / "checkpoint-6/model.safetensors")[name])
        for name, value in load_file(whole / "checkpoint-12/model.safetensors").items()
    )
    for prefix in ("train", "validation"):
        one, other = readings(whole, prefix), readings(resumed, prefix)
        tail = {name: values[-len(other["step"]) :] for name, values in one.items()}
        assert other == tail
        assert min(other["step"]) > 6


def test_another_bound_is_another_run(train_a_vae):
    train_a_vae(num_epochs=1)
    with pytest.raises(HfgenError) as error:
        train_a_vae(
            num_epochs=1, resume_from_checkpoint="latest", objective="sgvb_a", num_latent_samples=2,
            likelihood="bernoulli_static", kl_warmup_steps=2, latent_size=4,
        )  # fmt: skip
    for name in ("kl_warmup_steps", "latent_size", "likelihood", "num_latent_samples", "objective"):
        assert f"{name}: " in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        {"likelihood": "bernoulli", "kl_warmup_steps": 5},
        {"likelihood": "bernoulli_static", "objective": "iw", "num_latent_samples": 3},
        {"likelihood": "gaussian", "objective": "sgvb_a", "num_latent_samples": 2},
        {"likelihood": "bernoulli", "objective": "score_function", "num_latent_samples": 2},
    ],
    ids=["bernoulli", "iw", "gaussian", "score_function"],
)
def test_accumulation_sees_the_batches_of_one_large_batch(train_a_vae, tmp_path, flags):
    """Losses of some 45 or 90 nats are sums over pixels and images in float32, in another order: 1e-5 of them. Other
    images or noise change them by 0.1."""
    one = train_a_vae(output_dir=tmp_path / "one", random_flip=True, **flags)
    two = train_a_vae(
        output_dir=tmp_path / "two", train_batch_size=8, gradient_accumulation_steps=2, eval_batch_size=50,
        random_flip=True, **flags,
    )  # fmt: skip
    for prefix in ("train", "validation"):
        a, b = readings(one, prefix), readings(two, prefix)
        assert a["step"] == b["step"]
        for name in TERMS:
            assert a[name] == pytest.approx(b[name], abs=1e-3), (prefix, name)


# a trained model to start from


@pytest.fixture
def trained(train_a_vae, tmp_path):
    return train_a_vae(output_dir=tmp_path / "trained", latent_size=4, learning_rate=1e-2)


def test_training_goes_on_from_a_trained_model(train_a_vae, trained, tmp_path):
    flags = {"max_train_samples": 32, **NO_STEP}
    started = train_a_vae(output_dir=tmp_path / "started", pretrained_model_name_or_path=trained, **flags)
    assert same_weights(started, trained)  # the mean image too, which that of these 32 images would not be
    fresh = train_a_vae(output_dir=tmp_path / "fresh", latent_size=4, **flags)
    assert not weights_of(fresh)["pixel_mean"].equal(weights_of(trained)["pixel_mean"])
    configs = [json.loads((out / "vae/config.json").read_text()) for out in (started, trained)]
    assert configs[0] == configs[1]
    last = readings(trained, "validation")["loss"][-1]
    assert readings(started, "validation")["loss"] == pytest.approx([last], rel=1e-6)


def test_a_trained_model_may_change_the_objective_and_a_likelihood_of_its_shapes(train_a_vae, trained, tmp_path):
    out = train_a_vae(
        output_dir=tmp_path / "on", pretrained_model_name_or_path=trained, objective="iw", num_latent_samples=4,
        likelihood="bernoulli_grey", **NO_STEP,
    )  # fmt: skip
    assert same_weights(out, trained)
    config = load_vae(out).vae.config
    assert (config.likelihood, config.latent_size) == ("bernoulli_grey", 4)


def test_resuming_a_run_that_started_from_a_trained_model(train_a_vae, trained, tmp_path):
    flags = {"pretrained_model_name_or_path": trained, "checkpointing_steps": 6}
    whole = train_a_vae(output_dir=tmp_path / "whole", **flags)
    resumed = train_a_vae(output_dir=tmp_path / "resumed", resume_from_checkpoint=whole / "checkpoint-6", **flags)
    assert same_weights(whole, resumed)


@pytest.mark.parametrize(
    "flags", [{"latent_size": 5}, {"likelihood": "categorical"}, {"resolution": 4}], ids=lambda flags: next(iter(flags))
)
def test_a_trained_model_of_other_shapes_is_refused_in_a_line(train_a_vae, trained, tmp_path, flags):
    with pytest.raises(HfgenError) as error:
        train_a_vae(output_dir=tmp_path / "no", pretrained_model_name_or_path=trained, **flags)
    message = str(error.value)
    assert message.startswith(f"pretrained_model_name_or_path='{trained}' has weights of other shapes")
    assert f"--{next(iter(flags))}" in message
    assert "\n" not in message
    assert not (tmp_path / "no").exists()


def test_a_learned_variance_that_a_flag_would_fix_is_refused_with_that_flag(train_a_vae, tmp_path):
    trained = train_a_vae(output_dir=tmp_path / "trained", likelihood="gaussian", **NO_STEP)
    with pytest.raises(HfgenError, match="--gaussian_variance") as error:
        train_a_vae(output_dir=tmp_path / "no", pretrained_model_name_or_path=trained, gaussian_variance=0.5)
    assert "\n" not in str(error.value)


def test_what_is_no_trained_vae_is_refused_in_a_line(train_a_vae, trained, tmp_path, offline):
    unet = UNet2DModel(8, 1, 1, block_out_channels=(8, 8), norm_num_groups=4, add_attention=False, layers_per_block=1,
                       down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)  # fmt: skip
    UnconditionalDiffusionPipeline(unet, DDPMScheduler(20)).save_pretrained(tmp_path / "ddpm")
    (trained / WEIGHTS).unlink()
    for path, message in (
        (tmp_path / "ddpm", "is a diffusion model: this needs a VAE"),
        (trained, r"diffusion_pytorch_model\*\.safetensors missing"),
        (tmp_path / "nowhere", "does not exist: pass a pipeline's folder"),
        ("nobody/nothing", "is no folder here"),
    ):
        with pytest.raises(HfgenError, match=message) as error:
            train_a_vae(output_dir=tmp_path / "no", pretrained_model_name_or_path=path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "no").exists()


# what a training leaves


@pytest.mark.slow
def test_pictures_curves_and_a_whole_repository(train_a_vae):
    out = train_a_vae(curves=True, save_images_epochs=2, save_model_epochs=1, logger="tensorboard")
    assert sorted(path.name for path in (out / "samples").iterdir()) == ["step-0000008.png", "step-0000012.png"]
    for path in [out / "loss.png", *(out / "samples").iterdir()]:
        assert min(Image.open(path).size) >= 64
    names = {path.name for path in out.iterdir() if not path.name.startswith("checkpoint-")}
    assert names == {
        "model_index.json", "pipeline_hfgen_vae.py", "vae", "samples", "loss.png", "history.jsonl", "logs", "README.md",
        "training.json", "samples.png", "reconstructions.png", "interpolations.png", "latents.png", ".hfgen",
        "training_images.png",
    }  # fmt: skip
    assert {path.name for path in (out / "vae").iterdir()} == {
        "config.json", "diffusion_pytorch_model.safetensors", "modeling_hfgen_vae.py",
    }  # fmt: skip
    (out / "thesis.tex").write_text("years of work")
    (out / "vae-notes").mkdir()
    OutputFolder(out).begin(overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == [".hfgen", "thesis.tex", "vae-notes"]


def test_overwriting_replaces_one_training_by_another(train_a_vae, tmp_path):
    (tmp_path / "conv.json").write_text(json.dumps({"_class_name": "ConvVAE", "block_out_channels": [4]}))
    out = train_a_vae(num_epochs=1)
    with pytest.raises(HfgenError, match=r"is not empty: pass --resume_from_checkpoint latest.*--overwrite_output_dir"):
        train_a_vae(num_epochs=1)
    (out / "vae/notes.bin").write_bytes(b"somebody's own")
    train_a_vae(
        model_config_name_or_path=tmp_path / "conv.json", overwrite_output_dir=True, num_epochs=None, max_train_steps=2
    )
    assert type(load_vae(out).vae).__name__ == "ConvVAE"
    assert (out / "vae/notes.bin").read_bytes() == b"somebody's own"
    assert [path.name for path in out.glob("checkpoint-*")] == ["checkpoint-2"]


PRESETS = [
    "vae-digits",
    "vae-mnist-2d",
    "vae-mnist-50d",
    "vae-mnist-50d-wide",
    "vae-mnist-50d-iw",
    "vae-mnist-grey",
    "vae-mnist-conv",
]


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_trains(train_a_vae, tmp_path, repository, preset):
    """Two steps of each on digits of the size that it is made for."""
    path, name = repository / "training" / f"{preset}.yaml", preset.removeprefix("vae-").removesuffix("-iw")
    size, trained = (8 if name == "digits" else 28), None
    if preset.endswith("-iw"):
        trained = tmp_path / "trained"
        VAEPipeline(build_vae(VAE_PRESETS[name], size, 1)).save_pretrained(trained)
    out = train_a_vae(
        "--config", str(path), model_config_name_or_path=None, pretrained_model_name_or_path=trained, resolution=size,
        num_epochs=None, max_train_steps=2, learning_rate=None,
    )  # fmt: skip
    vae = load_vae(out).vae
    expected = VAE_PRESETS[name]
    assert type(vae).__name__ == expected["_class_name"]
    shown = {key: list(value) if isinstance(value, (list, tuple)) else value for key, value in vae.config.items()}
    assert {key: shown[key] for key in expected if key != "_class_name"} == {
        key: value for key, value in expected.items() if key != "_class_name"
    }
    assert vae.config.sample_size == size
    assert all(weight.dtype == torch.float32 and weight.isfinite().all() for weight in vae.parameters())


# bad flags


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"latent_size": 0}, "^latent_size=0: it must be greater than 0$"),
        ({"num_latent_samples": 0}, "^num_latent_samples=0: it must be greater than 0$"),
        ({"gaussian_variance": -1}, "^gaussian_variance=-1.0: it must be greater than 0$"),
        ({"kl_warmup_steps": -1}, "^kl_warmup_steps=-1: it must be 0 or greater$"),
        ({"model_config_name_or_path": "mnist"}, r"'mnist' is no preset \(digits, mnist-2d, mnist-50d, .*: pass one"),
        ({"model_config_name_or_path": "nowhere.json"}, "nowhere.json"),
        ({"model_config_name_or_path": {"_class_name": "VAE"}}, "_class_name='VAE': use one of MLPVAE, ConvVAE"),
        ({"model_config_name_or_path": {"_class_name": "MLPVAE", "likelihood": "beta"}}, "'beta': choose one of bern"),
        ({"model_config_name_or_path": {"_class_name": "MLPVAE", "latent_size": 0}}, "latent_size=0: at least 1"),
        ({"model_config_name_or_path": {"_class_name": "MLPVAE", "depth": 3}}, "has depth: MLPVAE takes no such"),
        (
            {"model_config_name_or_path": {"_class_name": "ConvVAE", "block_out_channels": [4] * 4}},
            "sample_size=8 is not divisible by 16.*use fewer blocks",
        ),
        ({"model_config_name_or_path": {"_class_name": "MLPVAE", "activation": "sine"}}, "'sine': choose one of tanh"),
        ({"train_batch_size": 65}, "a batch of 65 .* more than the 64 training images: lower --train_batch_size"),
        ({"image_column": "picture"}, "image_column='picture' is not in the dataset"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_flags_are_named_with_the_way_out(train_a_vae, tiny_vae_flags, tmp_path, offline, flags, message):
    config = flags.get("model_config_name_or_path")
    if isinstance(config, dict):
        (tmp_path / "bad.json").write_text(json.dumps(config))
        flags = {"model_config_name_or_path": tmp_path / "bad.json"}
    with pytest.raises(HfgenError, match=message) as error:
        train_a_vae(**flags)
    assert "\n" not in str(error.value)
    assert not tiny_vae_flags["output_dir"].exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"likelihood": "beta"}, r"argument --likelihood: invalid choice: 'beta' \(choose from '?bernoulli'?, .*"),
        ({"objective": "elbo"}, r"argument --objective: invalid choice: 'elbo' \(choose from '?sgvb_b'?, .*"),
        ({"latent_size": "two"}, r"argument --latent_size\S*: invalid int value: 'two'"),
        ({"ddpm_num_steps": "10"}, "unrecognized arguments: --ddpm_num_steps=10"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_flags_that_do_not_parse_end_with_one_line_and_status_2(train_a_vae, tiny_vae_flags, capsys, flags, message):
    with pytest.raises(SystemExit) as end:
        train_a_vae(**flags)
    assert end.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert re.search(rf"error: {message}; see --help$", captured.err)
    assert not tiny_vae_flags["output_dir"].exists()


HELP = """
import runpy, sys
sys.argv = [sys.argv[1], "--help"]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print([m for m in ("diffusers", "datasets", "matplotlib", "sklearn") if m in sys.modules], file=sys.stderr)
"""


def test_help_is_complete_and_quick(repository):
    command = [sys.executable, "-c", HELP, str(repository / "training/train_vae.py")]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    # 4 s here, most of it torch's import; what takes longer is loaded after the flags are known
    assert time.perf_counter() - start < 60
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"
    groups = (DataConfig, VAEFlags, OptimizationConfig, RunConfig)
    names = {field.name for group in groups for field in fields(group) if "help" in field.metadata}
    offered = {word.strip("[],") for word in done.stdout.split()}
    assert {f"--{name}" for name in names} <= offered
    text = " ".join(done.stdout.split())
    for field in fields(VAEFlags):
        assert " ".join(field.metadata["help"].split()) in text
    for choice in (*LIKELIHOODS, *OBJECTIVES, *VAE_PRESETS):
        assert choice in text
    assert "vae-model" in text
    assert "ddpm" not in text.lower()
