"""A kind of model in one file and one line of the registry does all that others do; nothing else of hfgen knows it."""

import math
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import notebook_launcher
from accelerate.state import AcceleratorState, GradientState
from diffusers import DDPMScheduler, UNet2DModel
from sklearn.decomposition import PCA as SklearnPCA

import hfgen
from hfgen.cli.main import main
from hfgen.core.media import to_model_range
from hfgen.data.digits import embedded_digits
from hfgen.families import registry
from hfgen.models import MLPVAE
from hfgen.pipelines import UnconditionalDiffusionPipeline, VAEPipeline
from hfgen.results import EvaluationResult

LINE = ("ppca", "ppca_family:PPCA")
SETTINGS = {
    "dataset_name": "digits",
    "validation_split": "test",
    "latent_size": 10,
    "train_batch_size": 100,
    "eval_batch_size": 297,
    "max_train_steps": 1500,
    "learning_rate": 0.03,
    "lr_warmup_steps": 10,
    "ema_max_decay": 0.99,
    "adam_weight_decay": 0.0,
    "max_grad_norm": 100.0,
    "save_images_epochs": 0,
    "save_model_epochs": 1000,
    "checkpointing_steps": 1000,
    "logging_steps": 500,
    "logger": "none",
}
REGISTER = f"from hfgen.families.registry import FAMILIES\nFAMILIES[{LINE[0]!r}] = {LINE[1]!r}\n"


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(registry.FAMILIES, *LINE)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Through the loop of all trainings, from Python."""
    folder = tmp_path_factory.mktemp("ppca") / "ppca-digits"
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.FAMILIES, *LINE)
        return hfgen.train("ppca", **SETTINGS, output_dir=folder)


def pixels(split):
    images = torch.from_numpy(np.stack([np.array(image) for image in embedded_digits()[split]["image"]]))
    return to_model_range(images[:, None]).double().flatten(1)


def test_it_trains_to_what_the_closed_form_gives(trained):
    """Tipping & Bishop's maximum likelihood solution bounds what any training can reach on its own images."""
    x = pixels("train")
    best = -SklearnPCA(SETTINGS["latent_size"]).fit(x.numpy()).score(x.numpy())
    result = hfgen.evaluate(trained.output_dir, dataset_name="digits", split="train")
    found = result.metrics["negative_log_density"].mean
    assert best - 1e-3 < found < best + 0.5  # of some 20 nats: what 1500 steps of Adam leave
    assert trained.record.family == "ppca"
    assert trained.history[-1]["step"] == SETTINGS["max_train_steps"]


def test_its_likelihood_is_the_exact_one(trained):
    model = trained.model().pipeline.model
    W, mu = model.W.detach().double(), model.mu.detach().double()
    covariance = W @ W.T + model.log_variance.detach().double().exp() * torch.eye(len(mu), dtype=torch.float64)
    x = pixels("test")
    nll = -torch.distributions.MultivariateNormal(mu, covariance).log_prob(x)
    result = hfgen.evaluate(trained.output_dir, dataset_name="digits", split="test", likelihood=True)
    metric = result.headline("log-likelihood", "nats/image")
    assert metric.mean == pytest.approx(nll.mean().item(), rel=1e-9)
    assert metric.standard_error == pytest.approx(nll.std().item() / math.sqrt(len(x)), rel=1e-9)
    assert result.family == "ppca"
    assert "exact" in result.table()


def test_it_samples_with_a_choice_of_its_own(trained, tmp_path, capsys):
    few, many = (hfgen.sample(trained.output_dir, num_images=n, seed=3, batch_size=4) for n in (3, 7))
    assert torch.equal(few.images, many.images[:3])
    cold = hfgen.sample(trained.output_dir, num_images=7, seed=3, temperature=0.1)
    assert cold.images.float().std(0).mean() < 0.3 * many.images.float().std(0).mean()
    command = ["sample", str(trained.output_dir), "--num_images", "4", "--temperature", "0.5"]
    assert main([*command, "--out", str(tmp_path / "grid.png")]) == 0
    assert "temperature 0.5" in capsys.readouterr().out
    with pytest.raises(hfgen.HfgenError, match=r"--steps: .*probabilistic PCA.* no such choice"):
        hfgen.sample(trained.output_dir, steps=3)
    with pytest.raises(hfgen.HfgenError, match=r"temperature=-1.*greater than 0"):
        hfgen.sample(trained.output_dir, temperature=-1)


@pytest.mark.slow
def test_it_stands_beside_a_vae_and_a_ddpm(trained, tmp_path):
    torch.manual_seed(0)
    VAEPipeline(MLPVAE(sample_size=8, latent_size=2, hidden_sizes=(8,))).save_pretrained(tmp_path / "vae")
    blocks = {"block_out_channels": (8, 8), "layers_per_block": 1, "norm_num_groups": 4, "add_attention": False}
    unet = UNet2DModel(8, 1, 1, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, **blocks)
    UnconditionalDiffusionPipeline(unet, DDPMScheduler(25)).save_pretrained(tmp_path / "ddpm")
    models = [trained.output_dir, tmp_path / "vae", tmp_path / "ddpm"]
    choices = {"evaluations": 100, "iw_samples": 3, "steps": 2, "temperature": 0.9, "sample_pixels": True}
    comparison = hfgen.compare(
        models,
        out=tmp_path / "page.html",
        repeat=1,
        dataset_name="digits",
        samples=70,
        max_images=20,
        **choices,
    )
    rows = {row[0]: row[1:] for row in comparison.rows}
    assert rows["kind"] == ["probabilistic PCA", "VAE", "diffusion, T = 25"]
    assert rows["log-likelihood, negative, nats/image"][1:] == ["–", "–"]
    assert rows["samples"][0] == "70, ancestral, temperature 0.9"
    assert all("floor" in cell for cell in rows["Frechet distance (not FID)"])
    assert (tmp_path / "page.html").read_text().count(
        "<img"
    ) == 8  # three grids, their nearest, real images and the terms over t
    assert not list(tmp_path.glob(".page*"))


def test_it_has_a_card_and_figures(trained, tmp_path):
    card = (trained.output_dir / "README.md").read_text()
    for words in ("Probabilistic PCA (Tipping & Bishop 1999) with 10 latents", "training/train_ppca.py", "- ppca"):
        assert words in card
    assert "![loss](loss.png)" in card
    assert main(["figures", str(trained.output_dir), "--dataset_name", "digits", "--out", str(tmp_path / "f")]) == 0
    assert sorted(path.name for path in (tmp_path / "f").iterdir()) == ["loss.png", "samples.png"]


def test_its_results_are_read_again(trained, tmp_path):
    out = tmp_path / "results.json"
    assert main(["evaluate", str(trained.output_dir), "--dataset_name", "digits", "--out", str(out)]) == 0
    assert EvaluationResult.load(out).family == "ppca"


@pytest.mark.hub
def test_it_is_published_and_pulled(trained, ours):
    path = f"import sys\nsys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
    publish = "from hfgen.cli.main import main\nsys.exit(main(['publish', arguments[0], 'alice/ppca']))"
    done = ours.run(path + REGISTER + publish, trained.output_dir).check()
    assert "alice/ppca" in done.out
    pull = (
        "import hfgen\nmodel = hfgen.load('alice/ppca')\n"
        "answer['kind'] = model.family.name\nanswer['mu'] = model.pipeline.model.mu.tolist()"
    )
    answer = ours.run(path + REGISTER + pull).check().answer
    assert answer == {"kind": "ppca", "mu": trained.model().pipeline.model.mu.tolist()}
    refused = ours.run("import hfgen\nhfgen.load('alice/ppca')")
    assert "brings code of its own, which hfgen does not run" in refused.err


def test_it_trains_from_a_notebook(tmp_path):
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    settings = {**SETTINGS, "max_train_steps": 3, "output_dir": str(tmp_path / "out")}
    notebook_launcher(hfgen.train, (hfgen.training_config("ppca", **settings),), num_processes=1)
    assert hfgen.load(tmp_path / "out").family.name == "ppca"


def test_no_other_file_knows_it():
    root = Path(__file__).parents[2]
    places = ["hfgen", "pipelines", "training", "benchmarks"]
    found = subprocess.run(
        ["grep", "-rliE", "ppca|probabilistic pca", *places], cwd=root, capture_output=True, text=True
    )
    assert [line for line in found.stdout.split() if not line.endswith(".pyc")] == []
