"""Repositories that stock diffusers loads: handled rightly, or refused in one line; what is not finite is never a result."""

import inspect
import json
import subprocess
import sys

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    CMStochasticIterativeScheduler,
    ConsistencyModelPipeline,
    DDPMScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    IPNDMScheduler,
    KarrasVeScheduler,
    LCMScheduler,
    PNDMScheduler,
    ScoreSdeVePipeline,
    ScoreSdeVeScheduler,
    TCDScheduler,
    UniPCMultistepScheduler,
)
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from safetensors.torch import load_file, save_file
from stock_repositories import change, save, unet

import hfgen
from hfgen.cli.main import main
from hfgen.core.errors import HfgenError
from hfgen.core.random import Stream, seeded
from hfgen.drawing.draw import image_generators
from hfgen.models import MLPVAE
from hfgen.pipelines import VAEPipeline
from hfgen.schedulers.own import OWN_STEPS

CPU = torch.device("cpu")
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def refusal(call, *args, **kwargs):
    with pytest.raises(HfgenError) as error:
        call(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


def in_a_line(call, *args, **kwargs):
    """What a call returns, or None and the line of its refusal."""
    try:
        return call(*args, **kwargs), ""
    except HfgenError as error:
        told = str(error)
    assert "\n" not in told
    return None, told


def rewrite(path, edit):
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


def drawn(folder, count=3, **options):
    """float images in [0, 1] of seed 0, and how."""
    model = hfgen.load(folder, device="cpu")
    sampler = model.family.sampler(model.pipeline, model.family.sampling_options(**options))
    return sampler.draw(image_generators(CPU, 0, 0, count), 0), sampler.how


# -- 41, 15, 45: weights


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite(tmp_path, value):
    folder = save(tmp_path / "bad")
    rewrite(folder / WEIGHTS, lambda tensors: tensors["conv_in.bias"].__setitem__(0, value))
    assert "the weights of unet are not finite (conv_in.bias holds nan or inf)" in refusal(hfgen.load, folder)


def test_weights_of_a_vae_that_are_not_finite(tmp_path):
    VAEPipeline(MLPVAE(sample_size=8, latent_size=3, hidden_sizes=(16,))).save_pretrained(tmp_path)
    path = tmp_path / "vae/diffusion_pytorch_model.safetensors"
    rewrite(path, lambda tensors: tensors["pixel_mean"].fill_(torch.nan))
    assert "the weights of vae are not finite (pixel_mean" in refusal(hfgen.load, tmp_path)


def test_a_tensor_too_few_one_too_many_and_one_of_another_shape(tmp_path):
    folder = save(tmp_path / "a")
    whole = load_file(folder / WEIGHTS)
    for edit, message in (
        (lambda t: t.pop("conv_out.bias"), "the weights of unet lack the tensor conv_out.bias"),
        (lambda t: t.update(extra=torch.zeros(2)), "the weights of unet have a tensor extra"),
        (lambda t: t.update({"conv_in.bias": torch.zeros(3)}), "conv_in.bias expected shape torch.Size([8])"),
    ):
        save_file(whole, folder / WEIGHTS)
        rewrite(folder / WEIGHTS, edit)
        assert message in refusal(hfgen.load, folder)


def test_names_of_attention_from_before_are_no_strangers(tmp_path):
    """Repositories of 2022, such as google/ddpm-cifar10-32, have them."""
    attention = {"down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "attention_head_dim": 4}
    folder = save(tmp_path / "old", **attention)
    new, _ = drawn(folder)
    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}

    def older(tensors):
        for key in list(tensors):
            for now, then in names.items():
                if now in key:
                    tensors[key.replace(now, then)] = tensors.pop(key)

    rewrite(folder / WEIGHTS, older)
    assert any(".query." in key for key in load_file(folder / WEIGHTS))
    assert torch.equal(drawn(folder)[0], new)


def test_the_only_variant_is_found(tmp_path):
    folder = save(tmp_path / "half", variant="fp16")
    assert [path.name for path in folder.glob("unet/*.safetensors")] == ["diffusion_pytorch_model.fp16.safetensors"]
    model = hfgen.load(folder)
    assert model.variant == "fp16"
    assert model.summary().endswith("Its weights are the variant fp16.")
    assert torch.equal(drawn(folder)[0], drawn(save(tmp_path / "plain"))[0])
    (folder / WEIGHTS.replace(".safe", ".bf16.safe")).write_bytes(next(folder.glob("unet/*.safetensors")).read_bytes())
    assert "has weights of the variants bf16, fp16 alone" in refusal(hfgen.load, folder)
    save(folder)
    assert hfgen.load(folder).variant is None


# -- 42: the log of timesteps


def test_fourier_times_where_there_is_a_timestep_0(tmp_path):
    folder = save(tmp_path / "fourier", DDPMScheduler(25), time_embedding_type="fourier")
    model = hfgen.load(folder)
    for asked in ({"steps": 25, "scheduler": "ddpm"}, {"steps": 25, "scheduler": "ddim"}):
        assert "asks for timestep 0, and this UNet embeds the log" in refusal(
            hfgen.sample, model, num_images=1, **asked
        )
    message = refusal(hfgen.evaluate, model, dataset_name="digits", max_images=2)
    assert "which is not finite at timestep 0, and the bound has a term there" in message
    assert drawn(folder, steps=5)[0].isfinite().all()  # 4, 9, ... of 25


def test_fourier_times_of_noise_levels(tmp_path):
    """A score network takes log sigma, a flow the log of 1000 sigma; EDM's own times are logarithms already, of either sign."""
    for scheduler in (ScoreSdeVeScheduler(20), FlowMatchEulerDiscreteScheduler()):
        folder = save(tmp_path / type(scheduler).__name__, scheduler, time_embedding_type="fourier")
        assert drawn(folder)[0].isfinite().all()
    folder = save(tmp_path / "edm", EDMEulerScheduler(), time_embedding_type="fourier")
    assert "EDMEulerScheduler asks for timestep -" in refusal(hfgen.sample, folder, num_images=1)


# -- 43: schedulers that draw by rules of their own


def by_hand(network, scheduler, steps, generators, labels=None):
    """As pipelines of diffusers have it."""
    scheduler.set_timesteps(steps)
    x = randn_tensor((len(generators), *(network.config.in_channels, 8, 8)), generator=generators)
    x = x * getattr(scheduler, "init_noise_sigma", 1.0)
    takes = inspect.signature(scheduler.step).parameters
    more = {"generator": generators} if "generator" in takes else {}
    with torch.no_grad():
        for t in scheduler.timesteps:
            scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            x = scheduler.step(network(scaled, t, class_labels=labels).sample, t, x, **more)[0]
    return (x / 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize(
    ("scheduler", "steps"),
    [
        (FlowMatchEulerDiscreteScheduler(), 20),
        (FlowMatchEulerDiscreteScheduler(shift=3.0, stochastic_sampling=True), 20),
        (FlowMatchHeunDiscreteScheduler(), 20),
        (EDMEulerScheduler(), 20),
        (EDMEulerScheduler(prediction_type="v_prediction", sigma_schedule="exponential"), 20),
        (EDMDPMSolverMultistepScheduler(), 20),
        (EDMDPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"), 20),
        (CMStochasticIterativeScheduler(), 1),
        (LCMScheduler(), 4),
        (TCDScheduler(), 4),
        (IPNDMScheduler(), 50),
        (
            EulerDiscreteScheduler(
                timestep_type="continuous", prediction_type="v_prediction", sigma_min=0.002, sigma_max=80.0
            ),
            20,
        ),
        (UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True), 20),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_scheduler_with_rules_of_its_own_draws_as_in_diffusers(tmp_path, scheduler, steps):
    folder = save(tmp_path / "own", scheduler)
    images, how = drawn(folder)
    assert how == f"{type(scheduler).__name__}, {steps} steps"
    expected = by_hand(unet(), scheduler, steps, image_generators(CPU, 0, 0, 3))
    assert torch.allclose(images, expected, atol=1e-6)
    assert images.std() > 0
    fewer, _ = drawn(folder, steps=3)
    assert torch.allclose(fewer, by_hand(unet(), scheduler, 3, image_generators(CPU, 0, 0, 3)), atol=1e-6)
    model = hfgen.load(folder)
    assert hfgen.sample(model, num_images=2).how == how
    assert type(scheduler).__name__ in model.summary()


def test_a_score_network_draws_as_in_diffusers_and_an_image_is_its_own(tmp_path):
    scheduler = ScoreSdeVeScheduler(30)
    folder = save(tmp_path / "score", scheduler, ScoreSdeVePipeline, in_channels=3, time_embedding_type="fourier")
    images, how = drawn(folder)
    assert how == "ScoreSdeVeScheduler, 30 steps"
    stock = ScoreSdeVePipeline(unet(in_channels=3, time_embedding_type="fourier"), scheduler)
    for i in range(3):  # stock ones take the step size of the whole batch, and an image depends on its neighbours
        expected = stock(
            1, num_inference_steps=30, generator=seeded("cpu", 0, Stream.SAMPLES, i), output_type="np"
        ).images
        assert np.allclose(images[i].permute(1, 2, 0), expected[0], atol=1e-5)
    assert torch.equal(drawn(folder, count=1)[0], images[:1]) or torch.allclose(
        drawn(folder, count=1)[0], images[:1], atol=1e-5
    )


def test_another_sampler_for_one_without_betas(tmp_path):
    folder = save(tmp_path / "flow", FlowMatchEulerDiscreteScheduler())
    message = refusal(hfgen.sample, folder, num_images=1, scheduler="ddim")
    assert "FlowMatchEulerDiscreteScheduler has no betas to go by and cannot become 'ddim'" in message
    for scheduler in (
        EDMEulerScheduler(),
        UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
    ):
        message = refusal(hfgen.evaluate, save(tmp_path / "other", scheduler), dataset_name="digits", max_images=2)
        assert "does not run a DDPM's process" in message
    assert drawn(save(tmp_path / "pndm", PNDMScheduler()), steps=3)[1] == "sde-dpmsolver++, 3 steps"


# -- 48, and all others


def test_karras_ve(tmp_path):
    folder = save(tmp_path / "karras", KarrasVeScheduler())
    assert "hfgen does not know how a UNet2DModel is sampled by KarrasVeScheduler" in refusal(hfgen.sample, folder)
    message = refusal(hfgen.evaluate, folder, dataset_name="digits", max_images=2)
    assert "KarrasVeScheduler does not run a DDPM's process (a variance-exploding process)" in message
    assert refusal(hfgen.evaluate, folder, dataset_name="digits", samples=40)


def all_schedulers():
    for name in sorted(dir(diffusers)):
        kind = getattr(diffusers, name)
        if name.endswith("Scheduler") and isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin):
            try:
                kind()
            except (TypeError, ImportError):  # wants arguments of other modalities, or a package
                continue
            yield name


@pytest.mark.parametrize("name", all_schedulers())
def test_every_scheduler_of_diffusers_draws_or_is_refused_in_a_line(tmp_path, name):
    folder = save(tmp_path / "any", getattr(diffusers, name)())
    model = hfgen.load(folder)
    steps = {"steps": 6} if name == "ScoreSdeVeScheduler" else {}
    samples, told = in_a_line(hfgen.sample, model, num_images=2, **steps)
    assert (name in told) if samples is None else samples.images.float().std() > 0
    result, told = in_a_line(hfgen.evaluate, model, dataset_name="digits", max_images=4, evaluations=100)
    assert (name in told) if result is None else all(np.isfinite(m.mean) for m in result.metrics.values())


def test_most_schedulers_draw():
    """So that a table of refusals does not pass for support."""
    assert set(OWN_STEPS) <= set(all_schedulers())


# -- 44: classes, by a network that is told them


def test_a_class_conditional_network_draws_its_labels(tmp_path):
    folder = save(tmp_path / "classes", CMStochasticIterativeScheduler(), ConsistencyModelPipeline, num_class_embeds=4)
    model = hfgen.load(folder)
    assert model.family.name == "labelled_ddpm"
    images, how = drawn(folder, count=6)
    assert how == "CMStochasticIterativeScheduler, 1 steps, classes in turn, guidance 1"
    stock = ConsistencyModelPipeline(unet(num_class_embeds=4), CMStochasticIterativeScheduler())
    stock.set_progress_bar_config(disable=True)
    expected = stock(6, [0, 1, 2, 3, 0, 1], generator=image_generators(CPU, 0, 0, 6), output_type="pt").images
    assert torch.allclose(images, expected, atol=1e-6)
    chosen, _ = drawn(folder, count=2, class_labels=("3",), steps=4)
    expected = stock(2, [3, 3], 4, generator=image_generators(CPU, 0, 0, 2), output_type="pt").images
    assert torch.allclose(chosen, expected, atol=1e-6)
    assert not torch.allclose(chosen, drawn(folder, count=2, class_labels=("2",), steps=4)[0])
    assert "told one of 4 classes by number" in model.summary()


def test_what_a_class_conditional_network_cannot_do(tmp_path):
    folder = save(tmp_path / "classes", DDPMScheduler(25), num_class_embeds=4)
    for options, message in (
        ({"class_labels": ("4",)}, "class label 4: use 0..3"),
        ({"guidance_scale": 2.0}, "guidance_scale=2: this network has no label for no class"),
    ):
        assert message in refusal(hfgen.sample, folder, num_images=1, **options)
    message = refusal(hfgen.evaluate, folder, dataset_name="digits")
    assert "this network always wants a class" in message
    hfgen.load(folder).pipeline.save_pretrained(tmp_path / "again")
    assert torch.equal(drawn(folder)[0], drawn(tmp_path / "again")[0])
    change(folder / "unet/config.json", class_embed_type="timestep")
    assert refusal(hfgen.load, folder)


# -- 46, 47: sizes and channels


@pytest.mark.parametrize("size", [[8, 8], [8, 16]])
def test_a_size_is_two_numbers(tmp_path, size):
    folder = save(tmp_path / "size", sample_size=size)
    assert hfgen.load(folder).image_shape == (1, *size)
    assert hfgen.sample(folder, num_images=2, steps=2).images.shape == (2, 1, *size)
    if size == [8, 8]:
        assert hfgen.evaluate(folder, dataset_name="digits", max_images=4, evaluations=100).likelihood is not None
    else:
        assert "1x8x16" in refusal(hfgen.evaluate, folder, dataset_name="digits", max_images=4)
        (tmp_path / "images").mkdir()
        Image.new("L", (16, 8)).save(tmp_path / "images/0.png")
        message = refusal(hfgen.evaluate, folder, dataset_name=str(tmp_path / "images"), split="train")
        assert "hfgen measures on square ones alone" in message


def test_no_size(tmp_path):
    folder = save(tmp_path / "none", sample_size=None)
    message = refusal(hfgen.load, folder)
    assert "sample_size is None in unet/config.json" in message
    assert "set it there" in message


def test_a_size_that_cannot_be_halved(tmp_path):
    assert "sample_size is 9 in unet/config.json, which cannot be halved 1 times" in refusal(
        hfgen.load, save(tmp_path / "odd", sample_size=9)
    )


def test_pictures_of_four_channels_and_none_of_two(tmp_path, capsys):
    out = tmp_path / "grid.png"
    assert (
        main(["sample", str(save(tmp_path / "rgba", in_channels=4)), "--num_images=2", "--steps=2", f"--out={out}"])
        == 0
    )
    assert Image.open(out).mode == "RGBA"
    folder = tmp_path / "single"
    assert main(["sample", str(tmp_path / "rgba"), "--num_images=2", "--steps=2", f"--out={folder}"]) == 0
    assert Image.open(folder / "00000.png").mode == "RGBA"
    capsys.readouterr()
    assert main(["sample", str(save(tmp_path / "two", in_channels=2)), "--num_images=2", f"--out={out}"]) == 1
    assert "has images of 2 channels" in capsys.readouterr().err


# -- 12, 14, 17: configs that cannot be


@pytest.mark.parametrize(
    ("file", "key", "value", "message"),
    [
        ("unet", "sample_size", "8", 'sample_size is "8" in unet/config.json, not a side of 1 or more'),
        ("unet", "sample_size", 0, "sample_size is 0 in unet/config.json"),
        ("unet", "sample_size", -8, "sample_size is -8 in unet/config.json"),
        ("unet", "sample_size", [1, 2, 3], "sample_size is [1, 2, 3] in unet/config.json"),
        ("unet", "sample_size", 8.0, "sample_size is 8.0 in unet/config.json"),
        ("unet", "sample_size", True, "sample_size is true in unet/config.json"),
        ("unet", "sample_size", 10_000_000, "one image in the first layer takes at least"),
        ("unet", "norm_num_groups", 0, "norm_num_groups is 0 in unet/config.json, not a whole number of 1 or more"),
        ("unet", "norm_num_groups", 3, "cannot be loaded"),
        ("unet", "attention_head_dim", 0, "attention_head_dim is 0 in unet/config.json"),
        ("unet", "in_channels", None, "in_channels is null in unet/config.json"),
        ("unet", "in_channels", 5, "cannot be loaded"),
        ("unet", "layers_per_block", "1", 'layers_per_block is "1" in unet/config.json'),
        ("unet", "layers_per_block", 1_000_000, "which makes 2,000,000 blocks where the weights have"),
        ("unet", "block_out_channels", [], "block_out_channels is [] in unet/config.json"),
        ("unet", "block_out_channels", [8, "8"], "block_out_channels is"),
        ("unet", "block_out_channels", [1_000_000, 8], "cannot be loaded"),
        ("unet", "num_class_embeds", "x", 'num_class_embeds is "x" in unet/config.json'),
        ("unet", "_class_name", [], "_class_name is [] in unet/config.json"),
        ("unet", "down_block_types", ["Nothing", "DownBlock2D"], "cannot be loaded"),
        ("unet", "down_block_types", 3, "cannot be loaded"),
        ("unet", "time_embedding_type", "x", "cannot be loaded"),
        (
            "scheduler",
            "num_train_timesteps",
            "1000",
            'num_train_timesteps is "1000" in scheduler/scheduler_config.json',
        ),
        ("scheduler", "num_train_timesteps", 1.5, "num_train_timesteps is 1.5 in scheduler/scheduler_config.json"),
        ("scheduler", "num_train_timesteps", None, "num_train_timesteps is null in scheduler/scheduler_config.json"),
        ("scheduler", "num_train_timesteps", 0, "num_train_timesteps is 0 in scheduler/scheduler_config.json"),
        ("scheduler", "num_train_timesteps", 10**9, "whose tables alone take 20.0 GB; at most 1,000,000"),
        ("scheduler", "_class_name", [1], "_class_name is [1] in scheduler/scheduler_config.json"),
        ("scheduler", "beta_schedule", "x", "cannot be loaded"),
        ("scheduler", "beta_start", "x", "not a number"),
        ("scheduler", "trained_betas", "x", "cannot be loaded"),
    ],
)
def test_a_config_that_cannot_be(tmp_path, file, key, value, message):
    folder = save(tmp_path / "wrong")
    change(folder / file / ("config.json" if file == "unet" else "scheduler_config.json"), **{key: value})
    assert message in refusal(hfgen.load, folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("beta_start", 2.0),
        ("beta_end", float("nan")),
        ("prediction_type", "x"),
        ("prediction_type", 3),
        ("prediction_type", []),
        ("timestep_spacing", "x"),
        ("variance_type", "x"),
        ("clip_sample_range", "x"),
        ("dynamic_thresholding_ratio", "x"),
        ("trained_betas", [0.1]),
    ],
)
def test_a_scheduler_that_turns_out_to_be_wrong(tmp_path, key, value):
    """It is told in a line at the latest when it draws or is measured, or does no harm."""
    folder = save(tmp_path / "wrong")
    change(folder / "scheduler/scheduler_config.json", **{key: value})
    in_a_line(hfgen.sample, folder, num_images=2, steps=3)
    in_a_line(hfgen.sample, folder, num_images=2, scheduler="ddpm")
    result, _ = in_a_line(hfgen.evaluate, folder, dataset_name="digits", max_images=4, evaluations=100)
    assert result is None or all(np.isfinite(m.mean) for m in result.metrics.values())


def test_the_registry_is_light():
    code = (
        "import sys, hfgen.families.registry as r; list(r.families());"
        "print([name for name in ('torch', 'diffusers', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.replace("'", '"')) == []
