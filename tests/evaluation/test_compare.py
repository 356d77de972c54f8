"""hfgen compare: the table says what was measured, and work broken off goes on."""

import base64
import io
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from diffusers import DDPMScheduler, UNet2DModel
from PIL import Image

from hfgen.cli.main import main
from hfgen.data.digits import embedded_digits
from hfgen.evaluation import compare as module
from hfgen.evaluation.evaluate import Measurement
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
VAE_FLAGS = "--dataset_name digits --samples 70 --iw_samples 3 --max_images 20 --repeat 1".split()


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


@pytest.mark.slow
def test_models_stand_side_by_side(models, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert main(["compare", *models, *FLAGS, "--out", str(out)]) == 0
    table = rows(out.with_suffix(".md").read_text())
    printed = capsys.readouterr().out.strip().splitlines()
    assert "\n".join(printed[:-2]) in out.with_suffix(".md").read_text()
    assert printed[-2:] == [str(out), str(out.with_suffix(".md"))]
    assert table[""] == ["diffusion", "vae", "grey"]
    assert table["kind"] == ["diffusion, T = 10", "VAE", "VAE"]
    assert [bool(re.match(r"\d+\.\d{3} ± \d", cell)) for cell in table["bound, bits/dim"]] == [True, True, False]
    assert table["measured"][2].startswith("pseudo-log-likelihood of grey pixels")
    assert all("(floor" in cell for cell in table["Frechet distance (not FID)"])
    assert table["training time"] == ["–", "2 min (abacus)", "–"]
    page = out.read_text()
    pictures = [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]
    assert (
        len(pictures) == 8
    )  # real images, three grids and their nearest training images, the terms of the diffusion model
    assert all(min(Image.open(io.BytesIO(data)).size) > 100 for data in pictures)
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert str(tmp_path) not in page
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(("page", "."))) == [
        "page.html",
        "page.md",
    ]


@pytest.mark.slow
def test_samples_alone_are_compared_where_that_is_asked_for(models, tmp_path):
    out = tmp_path / "page.html"
    assert main(["compare", *models, *FLAGS, "--likelihood", "false", "--out", str(out)]) == 0
    table = rows(out.with_suffix(".md").read_text())
    assert "precision" in table
    assert not {"measured", "bound, bits/dim", "bound, nats/image"} & set(table)
    assert "--likelihood False" in out.read_text()


@pytest.mark.slow
def test_what_is_broken_off_goes_on_with_the_models_that_are_missing(models, tmp_path, monkeypatch):
    measured, measure, timed = [], Measurement.measure, module.seconds_per_sample

    def counted(self, *rest):
        measured.append(self.model.family.name)
        return measure(self, *rest)

    def broken(sampler, *rest):
        if not sampler.calls:
            raise KeyboardInterrupt
        return timed(sampler, *rest)

    monkeypatch.setattr(Measurement, "measure", counted)
    monkeypatch.setattr(module, "seconds_per_sample", broken)
    command = ["compare", *models[:2], *FLAGS, "--out", str(tmp_path / "page.html")]
    assert main(command) == 130
    assert not (tmp_path / "page.html").exists()
    monkeypatch.setattr(module, "seconds_per_sample", timed)
    assert main(command) == 0
    assert measured == ["ddpm", "vae", "vae"]


@pytest.mark.slow
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


@pytest.fixture
def quick(models, tmp_path, monkeypatch):
    """Run the command on the two VAEs; what of the first was measured is left when the second is broken off."""
    timed = module.seconds_per_sample

    def run(*words, limit=None, names=("vae", "grey")):
        calls = []

        def counted(*arguments):
            if len(calls) == limit:
                raise KeyboardInterrupt
            calls.append(arguments)
            return 0.001

        monkeypatch.setattr(module, "seconds_per_sample", counted)
        monkeypatch.chdir(tmp_path)
        status = main(["compare", *names, *VAE_FLAGS, "--out", "page.html", *words])
        monkeypatch.setattr(module, "seconds_per_sample", timed)
        return status, len(calls) // len(module.BATCHES)

    return run


WORK = ".page.html.unfinished/0"


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("kept.json", lambda path: path.write_bytes(b"\xff")),
        ("kept.json", lambda path: path.write_text("[]")),
        ("kept.json", lambda path: path.write_text('{"settings": {}, "files": 1}')),
        ("kept.json", lambda path: (path.unlink(), path.mkdir())),
        ("kept.json", lambda path: (path.unlink(), os.mkfifo(path))),
        ("results.json", lambda path: path.write_text("{}")),
        ("results.json", Path.unlink),
        ("results_samples.png", lambda path: path.write_bytes(path.read_bytes()[:50])),
        ("../0", lambda path: (shutil.rmtree(path), path.write_text(""))),
    ],
)
def test_results_that_are_damaged_are_measured_anew(quick, tmp_path, capsys, name, damage):
    assert quick(limit=2) == (130, 1)
    damage((tmp_path / WORK / name).resolve())
    capsys.readouterr()
    assert quick() == (0, 2)
    line = next(line for line in capsys.readouterr().err.splitlines() if "is damaged" in line)
    assert line.endswith(f"{Path(WORK, name) if name != '../0' else WORK} is damaged: the model is done anew")
    assert not (tmp_path / ".page.html.unfinished").exists()


def test_what_was_kept_is_taken_for_the_same_work_alone(quick, tmp_path, digits_of):
    assert quick(limit=2) == (130, 1)
    assert quick(limit=0) == (130, 0)
    assert quick("--repeat", "2", limit=2) == (130, 1)
    digits_of(lambda value: 255 - value)
    assert quick("--repeat", "2") == (0, 2)


@pytest.fixture
def digits_of(monkeypatch):
    """Digits with other pixels and the same fingerprints."""
    digits = embedded_digits()
    monkeypatch.setattr("hfgen.data.sources.embedded_digits", lambda: digits)

    def change(function):
        changed = {}
        for split, dataset in digits.items():
            images = [Image.eval(image, function) for image in dataset["image"]]
            changed[split] = Dataset.from_dict({"image": images, "label": dataset["label"]}, features=dataset.features)
            changed[split]._fingerprint = dataset._fingerprint
        digits.update(changed)

    return change


def test_names_that_are_those_of_files_of_the_work(quick, tmp_path):
    for name in ("settings", "kept", "a", "a_settings", "0"):
        shutil.copytree(tmp_path / "vae", tmp_path / name)
    names = ("settings", "kept", "a", "a_settings", "0")
    assert quick(names=names)[0] == 0
    assert rows((tmp_path / "page.md").read_text())[""] == list(names)


def test_the_folder_where_one_stands(models, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "seconds_per_sample", lambda *_: 0.001)
    (tmp_path / "vae/inner").mkdir()
    for here, first in (("vae", "."), ("vae/inner", ".."), ("grey", "../vae/inner/..")):
        monkeypatch.chdir(tmp_path / here)
        page = tmp_path / "page.html"
        assert main(["compare", first, str(tmp_path / "grey"), *VAE_FLAGS, "--out", str(page)]) == 0
        assert rows((tmp_path / "page.md").read_text())[""] == ["vae", "grey"]


def test_what_cannot_be_is_told_before_anything_is_measured(quick, models, tmp_path, capsys):
    (tmp_path / "broken").mkdir()
    shutil.copytree(tmp_path / "vae", tmp_path / "copy/vae")
    shutil.copytree(tmp_path / "vae", tmp_path / "odd")
    (tmp_path / "odd/training.json").write_text("[]")
    for names, words, message in (
        (("vae", "broken"), [], "broken"),
        (("vae", "copy/vae"), [], "two have the same name"),
        (("vae", "odd"), [], "odd/training.json"),
        (("vae", "grey"), ["--exact"], "--exact"),
    ):
        assert quick(*words, names=names) == (1, 0)
        assert message in capsys.readouterr().err.splitlines()[-1]
        assert not list(tmp_path.glob("*page*"))


def test_pages_of_others_are_replaced_only_if_asked(quick, tmp_path, capsys):
    for name in ("page.html", "page.md"):
        (tmp_path / name).write_text("mine")
        assert quick() == (1, 0)
        told = f"--out {name} holds no comparison of hfgen: name another, or pass --overwrite to replace it"
        assert capsys.readouterr().err.splitlines()[-1] == f"hfgen: error: {told}"
        assert (tmp_path / name).read_text() == "mine"
        assert quick("--overwrite") == (0, 2)
        assert quick() == (0, 2)  # and one of its own it knows


def test_the_page_is_no_part_of_a_pipeline(quick, tmp_path, capsys):
    (tmp_path / "vae/README.md").write_text("card")
    for out in ("vae/README.html", "vae/vae/config.html"):
        assert quick("--out", out, "--overwrite") == (1, 0)
        assert "is a part of the pipeline in" in capsys.readouterr().err
    assert (tmp_path / "vae/README.md").read_text() == "card"


def test_the_page_begins_with_real_images_and_shows_the_nearest_training_images(quick, tmp_path):
    assert quick()[0] == 0
    page = (tmp_path / "page.html").read_text()
    captions = re.findall(r"<figcaption>([^<]*)</figcaption>", page)
    assert captions == ["real images", "vae: means of p(x|z)", "grey: means of p(x|z)", "vae", "grey"]
    assert "nearest to it in pixels (Euclidean distance), of 1,500." in " ".join(page.split())
    table = rows((tmp_path / "page.md").read_text())
    assert all("(floor" in cell for cell in table["kernel distance (not KID)"])
    assert all("(floor" in cell for cell in table["distance in pixels to the nearest training image"])


def test_the_page_fits_a_phone(quick, tmp_path):
    """What can be wider than the window is allowed to break or shrink: pictures, words, the command, and rows of the table."""
    assert quick()[0] == 0
    page = (tmp_path / "page.html").read_text()
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    style = page[page.index("<style>") : page.index("</style>")]
    declared = {
        selector.strip(): body for selector, body in re.findall(r"^\s*([^{}@\n]+) \{ ([^{}]*) \}", style, re.MULTILINE)
    }
    assert "overflow-wrap: anywhere" in declared["h1, h2, p, th, td, dt, dd, figcaption"]
    assert "white-space: pre-wrap" in declared["pre"]
    assert "overflow-wrap: anywhere" in declared["pre"]
    assert "width: 100%" in declared["img"]
    assert "overflow-x: auto" in declared[".terms figure"]
    # a column is as wide as the window where that is less than the least width
    least = re.findall(r"minmax\(min\(100%, (\d+)rem\), 1fr\)", style)
    assert len(least) == 2
    assert re.search(r"@media \(max-width: 60rem\) \{\s*table, tbody \{ display: block; \}", style)
    assert "min-width: 0" in style[style.index("@media") :]
    assert not re.search(r"(?<!max-)(?<!min-)width: \d+(px|rem)", style)
