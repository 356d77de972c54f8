"""hfgen compare: the table says what was measured, and work broken off goes on."""

import base64
import io
import json
import re

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from PIL import Image

from hfgen.cli.main import main
from hfgen.evaluation import compare as module
from hfgen.models import MLPVAE
from hfgen.pipelines import UnconditionalDiffusionPipeline, VAEPipeline

UNET = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": [8, 8],
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "add_attention": False,
}
FLAGS = (
    "--dataset_name digits --samples 70 --evaluations 100 --iw_samples 3 --max_images 20 --steps 2 --repeat 1".split()
)


@pytest.fixture
def models(tmp_path, repository):
    torch.manual_seed(0)
    unet, scheduler = UNet2DModel(**UNET), DDPMScheduler(10, beta_start=0.01, beta_end=0.5)
    UnconditionalDiffusionPipeline(unet, scheduler).save_pretrained(tmp_path / "diffusion")
    for name, likelihood in (("vae", "discretized_logistic"), ("grey", "bernoulli_grey")):
        vae = MLPVAE(sample_size=8, latent_size=2, hidden_sizes=(8,), likelihood=likelihood)
        VAEPipeline(vae).save_pretrained(tmp_path / name)
    record = json.loads((repository / "model_cards/vae-mnist-8bit/training.json").read_text())
    record |= {"seconds": 120, "environment": {"device": "abacus"}}
    (tmp_path / "vae/training.json").write_text(json.dumps(record))
    return [str(tmp_path / name) for name in ("diffusion", "vae", "grey")]


def rows(markdown):
    cells = [line.strip("|").split("|") for line in markdown.splitlines() if line.startswith("|")]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in cells}


def test_models_stand_side_by_side(models, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert main(["compare", *models, *FLAGS, "--out", str(out)]) == 0
    table = rows(out.with_suffix(".md").read_text())
    assert out.with_suffix(".md").read_text() in capsys.readouterr().out
    assert table[""] == ["diffusion", "vae", "grey"]
    assert table["kind"] == ["diffusion, T = 10", "VAE", "VAE"]
    assert [bool(re.match(r"\d+\.\d{3} ± \d", cell)) for cell in table["bound, bits/dim"]] == [True, True, False]
    assert table["measured"][2].startswith("pseudo-log-likelihood of grey pixels")
    assert all("(floor" in cell for cell in table["Frechet distance (not FID)"])
    assert table["training time"] == ["–", "2 min (abacus)", "–"]
    page = out.read_text()
    pictures = [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]
    assert len(pictures) == 4  # three grids, and the terms of the diffusion model
    assert all(min(Image.open(io.BytesIO(data)).size) > 100 for data in pictures)
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert str(tmp_path) not in page
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(("page", "."))) == [
        "page.html",
        "page.md",
    ]


def test_what_is_broken_off_goes_on_with_the_models_that_are_missing(models, tmp_path, monkeypatch):
    measured, evaluate, timed = [], module.evaluate_model, module.seconds_per_sample

    def counted(model, *rest):
        measured.append(model.family.name)
        return evaluate(model, *rest)

    def broken(sampler, *rest):
        if not sampler.calls:
            raise KeyboardInterrupt
        return timed(sampler, *rest)

    monkeypatch.setattr(module, "evaluate_model", counted)
    monkeypatch.setattr(module, "seconds_per_sample", broken)
    command = ["compare", *models[:2], *FLAGS, "--out", str(tmp_path / "page.html")]
    assert main(command) == 130
    assert not (tmp_path / "page.html").exists()
    monkeypatch.setattr(module, "seconds_per_sample", timed)
    assert main(command) == 0
    assert measured == ["ddpm", "vae", "vae"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["diffusion"], "alone: name two or more pipelines to compare"),
        (["diffusion", "diffusion"], "two have the same name; rename a folder"),
        (["diffusion", "vae", "--out", "page.md"], "the page is an HTML file, name one that ends in .html"),
        (["diffusion", "nothing"], "neither a folder here nor a repository"),
    ],
)
def test_comparisons_that_cannot_be_made(models, tmp_path, monkeypatch, capsys, offline, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *words, *FLAGS]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.replace("neither a folder here nor a repository", "no folder here") in error
