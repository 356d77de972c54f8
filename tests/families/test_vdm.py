"""Variational diffusion models through everything that other kinds go through."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from diffusers import DDPMPipeline, DiffusionPipeline
from safetensors.torch import load_file, save_file

import hfgen
from hfgen.cli.main import main
from hfgen.cli.parser import parse_training_config
from hfgen.core.errors import HfgenError
from hfgen.core.history import read_history
from hfgen.core.media import unit_to_uint8
from hfgen.families.registry import get_family
from hfgen.families.vdm.flags import VDMSampling
from hfgen.models.modeling_hfgen_vdm import VDMModel
from hfgen.pipelines.pipeline_hfgen_vdm import VDMPipeline, betas_of
from hfgen.process import GaussianProcess
from hfgen.process.variational import bin_centres
from hfgen.trainer.train import train as train_from

UNET = {
    "block_out_channels": [8],
    "down_block_types": ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "add_attention": False,
}
WEIGHTS = "vdm/diffusion_pytorch_model.safetensors"


@pytest.fixture
def flags(tmp_path):
    """A run of 12 steps over 3 epochs on 64 real digits."""
    config = {"unet_config": UNET, "gamma_features": 16, "patch_size": 2, "fine_channels": 4, "fine_layers": 1}
    (tmp_path / "vdm.json").write_text(json.dumps(config))
    return {
        "dataset_name": "digits",
        "validation_split": "test",
        "max_train_samples": 64,
        "model_config_name_or_path": tmp_path / "vdm.json",
        "train_batch_size": 16,
        "eval_batch_size": 64,
        "num_epochs": 3,
        "learning_rate": 1e-2,
        "lr_warmup_steps": 3,
        "checkpointing_steps": 6,
        "logging_steps": 2,
        "save_images_epochs": 0,
        "vdm_num_inference_steps": 2,
        "logger": "none",
        "output_dir": tmp_path / "out",
    }


@pytest.fixture
def train(flags, monkeypatch):
    def run(figures=False, **changes):
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        words = [f"--{name}={value}" for name, value in {**flags, **changes}.items()]
        with monkeypatch.context() as patch:
            if not figures:
                patch.setattr("hfgen.trainer.train.save_curves", lambda *_: [])
                patch.setattr("hfgen.families.vdm.VDM.figures", lambda *_, **__: [])
            return train_from(parse_training_config("vdm", words))

    return run


def pipeline(**changes):
    torch.manual_seed(0)
    vdm = VDMModel(**{"sample_size": 8, "gamma_features": 16, "unet_config": UNET, **changes})
    for parameter in vdm.unet.conv_out.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return VDMPipeline(vdm)


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_it_trains_resumes_bit_for_bit_and_learns_its_schedule(train, tmp_path):
    whole = train(output_dir=tmp_path / "whole")
    resumed = train(output_dir=tmp_path / "resumed", resume_from_checkpoint=whole / "checkpoint-6")
    one, other = (load_file(folder / WEIGHTS) for folder in (whole, resumed))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert one["schedule.shift"].abs().min() > 0
    rows = [row for row in read_history(whole / "history.jsonl") if "train_loss" in row]
    parts = [rows[-1][f"train_{name}"] for name in ("prior", "reconstruction", "diffusion")]
    assert rows[-1]["train_loss"] == pytest.approx(sum(parts), rel=1e-4)
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]


@pytest.mark.parametrize(
    "changes",
    [
        {"gamma": "fixed", "loss_type": "discrete", "vdm_num_steps": 10},
        {"gamma": "scalar", "prediction_type": "v_prediction", "mixed_precision": "bf16"},
    ],
)
def test_its_choices_train(train, changes):
    out = train(num_epochs=1, **changes)
    config = json.loads((out / "vdm/config.json").read_text())
    assert config["gamma"] == changes["gamma"]
    assert hfgen.load(out).family.name == "vdm"


def test_classes_are_told_and_guide(train, tmp_path):
    out = train(num_epochs=1, class_conditional=True)
    samples = hfgen.sample(out, num_images=4, steps=2, class_labels=("3", "7"), guidance_scale=2.0)
    assert samples.images.shape == (4, 1, 8, 8)
    assert "classes 3, 7, guidance 2" in samples.how
    result = hfgen.evaluate(out, dataset_name="digits", split="test", max_images=8, evaluations=100)
    assert result.headline("bound", "bits/dim").mean > 0


def test_it_is_evaluated_and_described(train, tmp_path, capsys):
    out = train(figures=True, num_epochs=1, save_images_epochs=1)
    for name in ("gamma.png", "losses.png", "loss.png", "samples.png"):
        assert (out / name).is_file()
    card = (out / "README.md").read_text()
    assert "variational diffusion model (Kingma et al. 2021) of 8x8 grey images" in card
    assert "![gamma](gamma.png)" in card
    command = ["evaluate", str(out), "--dataset_name", "digits", "--split", "test", "--max_images", "20"]
    assert main([*command, "--evaluations", "100", "--out", str(tmp_path / "results.json")]) == 0
    told = capsys.readouterr().out
    assert "100 network evaluations, continuous time" in told
    assert (tmp_path / "results.png").is_file() or list(tmp_path.glob("results*.png"))
    continuous = hfgen.EvaluationResult.load(tmp_path / "results.json")
    parts = [continuous.metrics[f"vlb_{name}_bits_per_dim"].mean for name in ("prior", "reconstruction", "diffusion")]
    assert continuous.headline("bound", "bits/dim").mean == pytest.approx(sum(parts))
    discrete = hfgen.evaluate(out, dataset_name="digits", split="test", max_images=20, evaluations=100, bound_steps=10)
    assert discrete.likelihood.facts["T"] == 10


def test_an_image_is_a_function_of_its_generator_alone():
    model = pipeline()
    many, other = (
        model(3, generators(*seeds), num_inference_steps=4, output_type="pt").images for seeds in ((1, 2, 3), (5, 3, 2))
    )
    # of batches of one size: the last bits of others differ, and an untrained network of Fourier features makes much of them
    torch.testing.assert_close(many[1:], other[[2, 1]], rtol=0, atol=2.1 / 255)
    assert not torch.equal(many[0], other[0])
    levels = many * 255
    torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)


def test_a_step_draws_from_the_posterior_of_what_is_predicted():
    """Mean and variance of q(z_s | z_t, f_hat), by the process of a chain that has gamma_s and gamma_t."""
    model = pipeline()
    schedule = model.vdm.schedule
    s, t = torch.tensor([0.4, 0.5], dtype=torch.float64)
    gamma = schedule(torch.stack([s, t])).detach()
    forward = GaussianProcess.from_gamma(gamma)
    z, eps_hat = torch.randn(2, 1, 8, 8), torch.randn(2, 1, 8, 8)
    f_hat = (z - forward.sigma[1].float() * eps_hat) / forward.signal[1].float()
    mean, variance = forward.posterior(f_hat, z, torch.ones(2, dtype=torch.long))
    with torch.no_grad():
        found = [model._step(z, t, s, lambda *_: eps_hat, lambda v=v: torch.full_like(z, v)) for v in (0.0, 1.0)]
    torch.testing.assert_close(found[0], mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close((found[1] - found[0])[0, 0, 0, 0] ** 2, variance[0, 0, 0, 0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"num_inference_steps": 0}, "num_inference_steps=0"),
        ({"generator": generators(1, 2)}, "2 generators for batch_size=1"),
        ({"class_labels": [1]}, "told no classes"),
        ({"output_type": "jpg"}, "output_type='jpg'"),
    ],
)
def test_bad_calls_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        pipeline()(**arguments)


def test_it_loads_where_hfgen_cannot_be_imported(tmp_path):
    pipeline(num_classes=2).save_pretrained(tmp_path / "a")
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
        "images = pipeline(class_labels=[0, '1'], generator=torch.Generator().manual_seed(0), num_inference_steps=3, "
        "output_type='pt', guidance_scale=2.0).images\n"
        "print(images.double().sum().item())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a"), str(tmp_path / "b")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    ours = hfgen.load(tmp_path / "b").pipeline(
        class_labels=[0, "1"],
        generator=torch.Generator().manual_seed(0),
        num_inference_steps=3,
        output_type="pt",
        guidance_scale=2.0,
    )
    assert float(done.stdout.split()[-1]) == pytest.approx(ours.images.double().sum().item(), rel=1e-6)


@pytest.mark.parametrize(
    "scheduler", [None, "ddpm", "sde-dpmsolver++", "dpmsolver++", "unipc", "ddim", "euler", "heun"]
)
def test_every_solver_draws_what_the_network_knows(scheduler):
    """Of a network that knows all about pixels of N(0.2, 0.3^2), 4,096 of which have a mean within 0.02 and a deviation within 5 %."""
    model, mean, deviation = pipeline(), 0.2, 0.3

    def eps_hat(z, gamma, class_labels=None):
        alpha, sigma = (torch.sigmoid(sign * gamma).sqrt().view(-1, 1, 1, 1) for sign in (-1, 1))
        return SimpleNamespace(sample=sigma * (z - alpha * mean) / ((alpha * deviation) ** 2 + sigma**2))

    model.vdm.forward = eps_hat
    sampler = get_family("vdm").sampler(model, VDMSampling(scheduler=scheduler, steps=100))
    images = sampler.draw(generators(*range(64)), 0)
    f = 2 * images - 1
    assert f.mean().item() == pytest.approx(mean, abs=0.02)
    assert f.std().item() == pytest.approx(deviation, rel=0.05)


def test_bin_centres_are_shown_as_their_values():
    values = torch.arange(256)
    assert torch.equal(unit_to_uint8((bin_centres(values) + 1) / 2), values.to(torch.uint8))


def test_solvers_draw_classes_with_guidance(train):
    out = train(class_conditional=True, label_column="label")
    drawn = hfgen.sample(
        out, num_images=4, scheduler="dpmsolver++", steps=3, class_labels=("7", "1"), guidance_scale=2.0
    )
    assert drawn.images.shape == (4, 1, 8, 8)
    with pytest.raises(HfgenError, match="class label 12"):
        hfgen.sample(out, num_images=4, scheduler="ddim", class_labels=("12",))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"eta": 0.5}, "eta: of ddim alone"),
        ({"scheduler": "ddpm", "class_labels": ("1",)}, "told no classes"),
        ({"scheduler": "ddim", "steps": 2000}, "num_inference_steps=2000"),
    ],
)
def test_solvers_that_cannot_be_had_are_one_line(options, words):
    with pytest.raises(HfgenError, match=words):
        get_family("vdm").sampler(pipeline(), VDMSampling(**options))


def test_a_plain_network_is_shared_as_a_stock_repository(tmp_path):
    model = pipeline(fourier_features=[], prediction_type="v_prediction")
    model.vdm.schedule.l3.data += torch.rand(16) * 3
    model.to_ddpm(50).save_pretrained(tmp_path)
    stock = DiffusionPipeline.from_pretrained(tmp_path)
    assert type(stock) is DDPMPipeline
    gamma = model.vdm.schedule(torch.linspace(0, 1, 50, dtype=torch.float64)).detach()
    z, timesteps = torch.randn(4, 1, 8, 8), torch.tensor([0, 7, 30, 49])
    with torch.no_grad():
        torch.testing.assert_close(
            stock.unet(z, timesteps).sample, model.vdm(z, gamma[timesteps].float()).sample, rtol=1e-4, atol=1e-5
        )
    betas = torch.tensor(stock.scheduler.config.trained_betas, dtype=torch.float64)
    torch.testing.assert_close(GaussianProcess.from_betas(betas).gamma, gamma, rtol=1e-7, atol=1e-7)
    loaded = hfgen.load(tmp_path)
    assert loaded.family.name == "stock_vdm"
    for scheduler in ("ddim", "sde-dpmsolver++"):
        assert hfgen.sample(loaded, num_images=2, scheduler=scheduler, steps=4).images.shape == (2, 1, 8, 8)
    assert torch.equal(betas_of(gamma), betas)


def test_a_stock_repository_has_the_bound_of_its_model(tmp_path):
    """Equal but for the rounding of a float32 network: the table of its embedding against the embedding."""
    model = pipeline(fourier_features=[], prediction_type="v_prediction")
    model.vdm.schedule.l3.data += torch.rand(16) * 3
    model.save_pretrained(tmp_path / "vdm")
    model.to_ddpm(21).save_pretrained(tmp_path / "stock")
    data = {"dataset_name": "digits", "split": "test", "max_images": 16, "evaluations": 320}
    ours = hfgen.evaluate(tmp_path / "vdm", **data, bound_steps=20)
    stock = hfgen.evaluate(tmp_path / "stock", **data)
    assert stock.likelihood.facts["T"] == 20
    assert stock.metrics.keys() == ours.metrics.keys()
    for name, metric in ours.metrics.items():
        assert stock.metrics[name].mean == pytest.approx(metric.mean, rel=1e-5), name
        assert stock.metrics[name].standard_error == pytest.approx(metric.standard_error, rel=1e-4), name


@pytest.mark.parametrize("changes", [{}, {"fourier_features": []}, {"patch_size": 2, "fourier_features": []}])
def test_a_network_that_diffusers_has_not_is_no_stock_repository(changes):
    with pytest.raises(ValueError, match="this network is none of diffusers'"):
        pipeline(**changes).to_ddpm(50)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gamma_min": 6.0}, "gamma_min=6 is not below gamma_max=5"),
        ({"vdm_num_steps": 0}, "vdm_num_steps=0"),
        ({"gamma_max": "nan"}, "gamma_max=nan"),
        ({"model_config_name_or_path": "huge.json"}, r"model config huge\.json"),
    ],
)
def test_bad_flags_are_one_line(train, changes, words):
    with pytest.raises(hfgen.HfgenError, match=words):
        train(**changes)


def test_a_damaged_schedule_is_one_line(tmp_path):
    pipeline().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    save_file({**tensors, "schedule.shift": torch.tensor([30.0, 0.0])}, tmp_path / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(hfgen.HfgenError, match="are crossed"):
        hfgen.load(tmp_path)


def test_where_hfgen_is_installed_its_own_class_loads_it(tmp_path, monkeypatch):
    monkeypatch.setattr(VDMPipeline, "model_class", VDMModel)
    pipeline(num_classes=2).save_pretrained(tmp_path)
    loaded = VDMPipeline.from_pretrained(tmp_path)
    assert type(loaded.vdm) is VDMModel
    assert loaded.class_names == ["0", "1"]
