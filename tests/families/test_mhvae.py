"""Hierarchical VAEs through everything that other kinds go through."""

import json
import os
import subprocess
import sys

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file

import hfgen
from hfgen.cli.main import main
from hfgen.cli.parser import parse_training_config
from hfgen.core.history import read_history
from hfgen.models.mhvae_presets import MHVAE_PRESETS, build_mhvae
from hfgen.models.modeling_hfgen_mhvae import MLPMHVAE, ConvMHVAE
from hfgen.pipelines import MHVAEPipeline
from hfgen.trainer.train import train as train_from

WEIGHTS = "vae/diffusion_pytorch_model.safetensors"
MLP = {"_class_name": "MLPMHVAE", "latent_sizes": [4, 3, 2], "hidden_sizes": [[16], [8], []], "likelihood": "bernoulli"}
CONV = {"_class_name": "ConvMHVAE", "latent_channels": [1, 2], "block_out_channels": [4, 4], "fine_channels": 4}


@pytest.fixture
def flags(tmp_path):
    """A run of 12 steps over 3 epochs on 64 real digits."""
    (tmp_path / "mhvae.json").write_text(json.dumps(MLP))
    (tmp_path / "conv.json").write_text(json.dumps(CONV))
    return {
        "dataset_name": "digits",
        "validation_split": "test",
        "max_train_samples": 64,
        "model_config_name_or_path": tmp_path / "mhvae.json",
        "train_batch_size": 16,
        "eval_batch_size": 64,
        "num_epochs": 3,
        "learning_rate": 1e-2,
        "lr_warmup_steps": 3,
        "checkpointing_steps": 6,
        "logging_steps": 2,
        "save_images_epochs": 0,
        "logger": "none",
        "output_dir": tmp_path / "out",
    }


@pytest.fixture
def train(flags, monkeypatch):
    def run(figures=False, family="mhvae", **changes):
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        words = []
        for name, value in {**flags, **changes}.items():
            if value is not None:
                words += [f"--{name}", *map(str, value)] if isinstance(value, tuple) else [f"--{name}={value}"]
        with monkeypatch.context() as patch:
            if not figures:
                patch.setattr("hfgen.trainer.train.save_curves", lambda *_: [])
                patch.setattr("hfgen.families.mhvae.MHVAE.figures", lambda *_, **__: [])
                patch.setattr("hfgen.families.vae.VAE.figures", lambda *_, **__: [])
            return train_from(parse_training_config(family, words))

    return run


def pipeline(kind=MLPMHVAE, **changes):
    torch.manual_seed(0)
    sizes = {"latent_sizes": (4, 3, 2), "hidden_sizes": ((16,), (8,), ())} if kind is MLPMHVAE else {}
    model = kind(**{"sample_size": 8, "likelihood": "discretized_logistic", **sizes, **changes})
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 3
    return MHVAEPipeline(model.eval())


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def digits(count=5):
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


# training


@pytest.mark.parametrize("objective", ["sgvb_b", "dreg"])
def test_it_trains_and_resumes_bit_for_bit_with_each_layers_kl(train, tmp_path, objective):
    changes = {"objective": objective, "num_latent_samples": 3}
    whole = train(output_dir=tmp_path / "whole", **changes)
    resumed = train(output_dir=tmp_path / "resumed", resume_from_checkpoint=whole / "checkpoint-6", **changes)
    one, other = (load_file(folder / WEIGHTS) for folder in (whole, resumed))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    rows = [row for row in read_history(whole / "history.jsonl") if "train_loss" in row]
    assert rows[-1]["train_kl"] == pytest.approx(sum(rows[-1][f"train_kl_{layer}"] for layer in (1, 2, 3)), rel=1e-4)
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]


def test_of_one_layer_it_trains_as_the_vae(train, tmp_path):
    """From the same seed, with the same noise; 12 steps of float32 in which rounding grows."""
    (tmp_path / "vae.json").write_text(
        json.dumps(
            {"_class_name": "MLPVAE", "latent_size": 3, "hidden_sizes": [16], "likelihood": "discretized_logistic"}
        )
    )
    chain = {**MLP, "latent_sizes": [3], "hidden_sizes": [[16]], "likelihood": "discretized_logistic"}
    (tmp_path / "one.json").write_text(json.dumps(chain))
    for changes in ({}, {"objective": "dreg", "num_latent_samples": 3}):
        vae, one = (
            train(
                family=family,
                model_config_name_or_path=tmp_path / f"{name}.json",
                output_dir=tmp_path / family / changes.get("objective", "sgvb_b"),
                **changes,
            )
            for family, name in (("vae", "vae"), ("mhvae", "one"))
        )
        found, expected = load_file(one / WEIGHTS), load_file(vae / WEIGHTS)
        for name, value in expected.items():
            name = name.replace("encoder.", "encoders.0.").replace("decoder.", "decoders.0.")
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4)


def test_micro_batches_make_the_same_steps(train, tmp_path):
    """The same rows with the same noise, in other sums: float32."""
    changes = {"objective": "dreg", "num_latent_samples": 3, "num_epochs": 1}
    whole = train(output_dir=tmp_path / "whole", **changes)
    parts = train(output_dir=tmp_path / "parts", train_batch_size=8, gradient_accumulation_steps=2, **changes)
    one, other = (load_file(folder / WEIGHTS) for folder in (whole, parts))
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_two_processes_make_the_same_steps(train, flags, tmp_path, repository):
    """Half of the rows each, with the noise of their rows, in other sums: float32."""
    changes = {"objective": "dreg", "num_latent_samples": 3, "num_epochs": 1}
    alone = train(output_dir=tmp_path / "alone", **changes)
    values = {**flags, **changes, "train_batch_size": 8, "output_dir": tmp_path / "two"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    words = [str(repository / "training/train_mhvae.py"), *(f"--{name}={value}" for name, value in values.items())]
    done = subprocess.run(
        [*launcher, *words], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=600
    )
    assert done.returncode == 0, done.stderr
    one, other = (load_file(folder / WEIGHTS) for folder in (alone, tmp_path / "two"))
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": "sgvb_a", "free_bits": 0.5, "kl_warmup_steps": 8},
        {"objective": "iw", "num_latent_samples": 2, "mixed_precision": "bf16"},
        {"model_config_name_or_path": "conv.json", "objective": "dreg", "num_latent_samples": 2},
        {"objective": "iw", "num_latent_samples": 3, "gradient_samples": 1},
        {"latent_sizes": (3, 2, 1), "likelihood": "categorical"},
    ],
    ids=str,
)
def test_its_choices_train(train, tmp_path, changes):
    if changes.get("model_config_name_or_path"):
        changes = {**changes, "model_config_name_or_path": tmp_path / "conv.json"}
    out = train(num_epochs=1, **changes)
    model = hfgen.load(out)
    assert model.family.name == "mhvae"
    if "latent_sizes" in changes:
        assert model.module.latent_sizes == changes["latent_sizes"]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "--dynamo_backend"), ("ACCELERATE_USE_FSDP", "true", "--use_fsdp")],
)
def test_what_accelerate_launch_would_do_to_weighted_gradients_is_refused(train, monkeypatch, name, value, words):
    monkeypatch.setenv(name, value)
    monkeypatch.setattr("hfgen.trainer.setup.check_sharding", lambda *_, **__: None)
    with pytest.raises(hfgen.HfgenError, match=f"objective=dreg.*{words} of accelerate launch"):
        train(objective="dreg", num_latent_samples=3)


def test_held_out_losses_are_the_bound_whatever_holds_the_layers_up(train, tmp_path):
    """Without a step: free bits and the warm-up are of the training alone."""
    changes = {"max_train_steps": 1, "num_epochs": None, "learning_rate": 1e-30}
    found = []
    for name, more in (("plain", {}), ("held", {"free_bits": 50.0, "kl_warmup_steps": 100})):
        out = train(output_dir=tmp_path / name, **changes, **more)
        (row,) = [row for row in read_history(out / "history.jsonl") if "validation_loss" in row]
        found.append(row["validation_loss"])
    assert found[0] == found[1]


def test_a_trained_model_is_gone_on_from(train, tmp_path):
    first = train(output_dir=tmp_path / "first")
    changes = {"model_config_name_or_path": None, "pretrained_model_name_or_path": first}
    second = train(
        output_dir=tmp_path / "second", objective="dreg", num_latent_samples=4, learning_rate=1e-30, **changes
    )
    one, other = (load_file(folder / WEIGHTS) for folder in (first, second))
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(
        hfgen.HfgenError, match=r"has weights of other shapes.* leave --latent_sizes, --likelihood"
    ) as error:
        train(output_dir=tmp_path / "third", latent_sizes=(5, 3, 2), **changes)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "third").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"latent_sizes": (0,)}, r"latent_sizes=\[0\]: write a number for each layer, one layer or more"),
        ({"latent_sizes": (4, 2)}, "write one list for each of the 2 layers"),
        ({"free_bits": -1}, "free_bits=-1"),
        (
            {"objective": "dreg", "kl_warmup_steps": 5},
            "kl_warmup_steps=5: the importance-weighted bound has no KL term",
        ),
        ({"objective": "iw", "free_bits": 0.5}, r"free_bits=0\.5: the importance-weighted bound has no KL term"),
        ({"model_config_name_or_path": "vae.json"}, "_class_name='MLPVAE': use one of MLPMHVAE, ConvMHVAE"),
        ({"model_config_name_or_path": "none.json"}, "latent_sizes"),
        ({"model_config_name_or_path": "beta.json"}, "likelihood='beta': choose one of"),
        ({"model_config_name_or_path": "mnist-3"}, r"'mnist-3' is no preset \(digits, mnist-2"),
        ({"gradient_samples": 2}, "gradient_samples=2: not with objective=sgvb_b, whose samples have no weights"),
        (
            {"objective": "iw", "num_latent_samples": 3, "gradient_samples": 4},
            "gradient_samples=4: there are num_latent_samples=3, take as many or fewer",
        ),
        ({"objective": "dreg", "gradient_samples": 0}, "gradient_samples=0: it must be greater than 0"),
        ({"objective": "dreg", "compile": True}, "objective=dreg weights gradients .* leave out --compile"),
        ({"num_latent_samples": 10**12}, "num_latent_samples=1000000000000 of train_batch_size=16"),
    ],
    ids=str,
)
def test_bad_flags_are_one_line(train, tmp_path, offline, changes, words):
    for name, config in (
        ("vae", {"_class_name": "MLPVAE"}),
        ("none", {**MLP, "latent_sizes": [], "hidden_sizes": []}),
        ("beta", {**MLP, "likelihood": "beta"}),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(config))
    name = changes.get("model_config_name_or_path")
    if name is not None and name.endswith(".json"):
        changes = {"model_config_name_or_path": tmp_path / name}
    with pytest.raises(hfgen.HfgenError, match=words) as error:
        train(**changes)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_file_that_does_not_fit_its_config_is_one_line(train, tmp_path):
    out = train(num_epochs=1)
    path = out / "vae/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "latent_sizes": [4, 3, 5]}))
    with pytest.raises(hfgen.HfgenError) as error:
        hfgen.load(out)
    assert "\n" not in str(error.value)
    path.write_text(json.dumps({**json.loads(path.read_text()), "latent_sizes": []}))
    with pytest.raises(hfgen.HfgenError, match=r"cannot be loaded: .*latent_sizes=\[\]"):
        hfgen.load(out)


PRESETS = {
    "mhvae-digits": 8,
    "mhvae-mnist-2": 28,
    "mhvae-mnist-5": 28,
    "mhvae-mnist-8bit": 28,
    "mhvae-mnist-2-dreg": 28,
}


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_trains(train, tmp_path, repository, preset):
    """Two steps of each on digits of the size that it is made for."""
    name, size, trained = preset.removeprefix("mhvae-").removesuffix("-dreg"), PRESETS[preset], None
    if preset.endswith("-dreg"):
        trained = tmp_path / "trained"
        MHVAEPipeline(build_mhvae(MHVAE_PRESETS[name], size, 1)).save_pretrained(trained)
    out = train(
        config=repository / "training" / f"{preset}.yaml",
        model_config_name_or_path=None,
        pretrained_model_name_or_path=trained,
        resolution=size,
        num_epochs=None,
        max_train_steps=2,
        learning_rate=None,
        eval_batch_size=8,
    )
    model = hfgen.load(out).module
    expected = build_mhvae(MHVAE_PRESETS[name], size, 1)
    assert model.latent_sizes == expected.latent_sizes
    assert model.state_dict().keys() == expected.state_dict().keys()
    assert all(weight.dtype == torch.float32 and weight.isfinite().all() for weight in model.parameters())


# measuring and telling


def test_it_is_evaluated_by_layer_and_described(train, tmp_path, capsys):
    out = train(figures=True, num_epochs=1, save_images_epochs=1)
    for name in ("samples.png", "reconstructions.png", "layers.png", "interpolations.png", "latents.png", "loss.png"):
        assert (out / name).is_file()
    card = (out / "README.md").read_text()
    assert (
        "a Markov chain of latents (Burda et al. 2016), of 8x8 grey images: MLPMHVAE, 3 layers of 4, 3, 2 latents"
        in card
    )
    assert "![layers](layers.png)" in card
    command = ["evaluate", str(out), "--dataset_name", "digits", "--split", "test", "--max_images", "20"]
    assert main([*command, "--iw_samples", "30", "--out", str(tmp_path / "results.json")]) == 0
    assert "KL of layer 3 (" in capsys.readouterr().out
    result = hfgen.EvaluationResult.load(tmp_path / "results.json")
    kls = [result.metrics[f"kl_{layer}"].mean for layer in (1, 2, 3)]
    assert sum(kls) == pytest.approx(result.metrics["kl"].mean)
    assert result.likelihood.facts["latents"] == [4, 3, 2]
    assert len(result.likelihood.facts["active_units"]) == 3
    assert result.headline("importance-weighted bound", "nats/image").mean < result.headline("bound", "nats/image").mean


def test_bits_per_dimension_of_8_bit_pixels(train, tmp_path):
    out = train(num_epochs=1, model_config_name_or_path=tmp_path / "conv.json")
    result = hfgen.evaluate(out, dataset_name="digits", split="test", max_images=10, iw_samples=20)
    assert result.headline("bound", "bits/dim").mean > result.headline("importance-weighted bound", "bits/dim").mean


def test_it_is_sampled(train):
    out = train(num_epochs=1)
    means, draws = (hfgen.sample(out, num_images=3, sample_pixels=pixels) for pixels in (False, True))
    assert means.images.shape == (3, 1, 8, 8)
    assert set(draws.images.unique().tolist()) <= {0, 255}
    with pytest.raises(hfgen.HfgenError, match=r"^compile: "):
        hfgen.sample(out, num_images=1, compile=True)


# the pipeline


def test_samples_come_down_the_chain():
    model = pipeline()
    vae, generator = model.vae, torch.Generator().manual_seed(3)
    images = model(4, torch.Generator().manual_seed(3), output_type="pt").images
    z = torch.randn(4, 2, generator=generator)
    for layer in (2, 1):
        prior = vae.prior(layer, z)
        z = prior.mean + prior.std * torch.randn(z.shape[0], vae.latent_sizes[layer - 1], generator=generator)
    torch.testing.assert_close(images, (vae.decode(z).sample / 2 + 0.5).clamp(0, 1).detach())


@pytest.mark.parametrize("kind", [MLPMHVAE, ConvMHVAE])
def test_an_image_is_a_function_of_its_generator_alone(kind):
    model = pipeline(kind)
    many, other = (model(3, generators(*seeds), output_type="pt").images for seeds in ((1, 2, 3), (5, 3, 2)))
    torch.testing.assert_close(many[1:], other[[2, 1]], rtol=0, atol=1e-4)
    assert not torch.equal(many[0], other[0])


def test_what_is_kept_from_a_layer_on_and_what_is_drawn_anew():
    model = pipeline()
    images = digits()
    one, other = (
        model.reconstruct(images, layer=3, draws=torch.Generator().manual_seed(seed), output_type="pt").images
        for seed in (0, 1)
    )
    assert not torch.equal(one, other)
    first = model.reconstruct(images, output_type="pt").images
    again = model.reconstruct(images, layer=1, draws=torch.Generator().manual_seed(7), output_type="pt").images
    assert torch.equal(first, again)
    x, vae = images * 2 - 1, model.vae
    z_1 = vae.encode(x).latent_dist.mean
    torch.testing.assert_close(first, (vae.decode(z_1).sample / 2 + 0.5).clamp(0, 1).detach())
    z_2 = vae.posterior(2, z_1).mean
    assert model.encode(images, layer=2).mean.equal(z_2)
    held = model.reconstruct(images, layer=2, sample_prior=False, output_type="pt").images
    torch.testing.assert_close(held, (vae.decode(vae.prior(1, z_2).mean).sample / 2 + 0.5).clamp(0, 1).detach())


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_interpolations_of_a_layer_end_at_its_means(layer):
    model = pipeline()
    a, b = digits(4).split(2)
    walk = model.interpolate(a, b, steps=5, layer=layer, output_type="pt").images.view(2, 5, 1, 8, 8)
    for end, images in ((0, a), (-1, b)):
        expected = model.reconstruct(images, layer=layer, sample_prior=False, output_type="pt").images
        torch.testing.assert_close(walk[:, end], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p: p(0), "batch_size=0"),
        (lambda p: p(2, generators(1)), "1 generators for 2 images"),
        (
            lambda p: p(latents=torch.zeros(2, 3)),
            r"latents of shape \(2, 3\): the last layer of this model is \(B, 2\)",
        ),
        (lambda p: p.encode(digits(), layer=4), "layer=4: this model has the layers 1 to 3"),
        (lambda p: p.reconstruct(digits(), layer=0), "layer=0"),
        (lambda p: p.reconstruct(digits(), draws=generators(1)), "1 generators for 5 images"),
        (lambda p: p.interpolate(digits(1), digits(2)), "1 images in a and 2 in b"),
        (lambda p: p.interpolate(digits(1), digits(1), steps=1), "steps=1"),
        (lambda p: p.interpolate(digits(1), digits(1), path="round"), "path='round'"),
        (lambda p: p(output_type="jpg"), "output_type='jpg'"),
    ],
)
def test_bad_calls_are_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call(pipeline())


def test_it_loads_where_hfgen_cannot_be_imported(tmp_path):
    pipeline().save_pretrained(tmp_path / "a")
    code = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] == 'hfgen': raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "import torch\nfrom diffusers import DiffusionPipeline\n"
        "pipeline = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)\n"
        "pipeline.save_pretrained(sys.argv[2])\n"
        "pipeline = DiffusionPipeline.from_pretrained(sys.argv[2], trust_remote_code=True)\n"
        "images = pipeline(4, generator=torch.Generator().manual_seed(0), output_type='pt').images\n"
        "pipeline.reconstruct(images, layer=3)\n"
        "print(images.double().sum().item())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a"), str(tmp_path / "b")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    ours = hfgen.load(tmp_path / "b").pipeline(4, generator=torch.Generator().manual_seed(0), output_type="pt")
    assert float(done.stdout.split()[-1]) == pytest.approx(ours.images.double().sum().item(), rel=1e-6)
