"""The guide to one's own images and its notebook, run in small: their own commands and cells with smaller numbers."""

import json
import re
import shlex
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from accelerate.state import AcceleratorState, GradientState
from PIL import Image

import hfgen
from hfgen.cli.main import main
from hfgen.cli.training_script import run_script

ROOT = Path(__file__).parents[2]
GUIDE, NOTEBOOK = ROOT / "docs" / "guides" / "own-images.md", ROOT / "examples" / "own_images.ipynb"
SCRIPT = ROOT / "examples" / "cut_photographs.py"
UNET = {
    "block_out_channels": [8, 8],
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "add_attention": False,
}
VAE = {
    "_class_name": "ConvVAE",
    "block_out_channels": [4, 4],
    "latent_size": 3,
    "likelihood": "discretized_logistic_rgb",
    "padding_mode": "replicate",
}
# what the numbers of the guide become
SMALL = {
    "--max_train_steps": {"3000": "2", "3500": "3", "500": "2"},
    "--lr_warmup_steps": {"200": "0", "50": "0"},
    "--save_images_epochs": {"6": "0", "12": "0", "0": "0"},
    "--steps": {"200": "2"},
    "--samples": {"500": "8"},
    "--evaluations": {"5000": "100"},
    "--iw_samples": {"50": "2"},
}
ALSO = {
    "cut_photographs": ["--stride", "16"],
    "train_ddpm": ["--model_config_name_or_path", "unet.json"],
    "train_vae": ["--model_config_name_or_path", "vae.json"],
    "train-features": ["--batch_size", "8"],
    "compare": ["--repeat", "1"],
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder with small models' configs, as the present one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "unet.json").write_text(json.dumps(UNET))
    (tmp_path / "vae.json").write_text(json.dumps(VAE))
    # which take longer than the rest and are tested elsewhere
    monkeypatch.setattr("hfgen.families.ddpm.DDPM.figures", lambda *_, **__: [])
    monkeypatch.setattr("hfgen.trainer.train.save_curves", lambda *_: [])
    return tmp_path


def commands():
    """The command lines of the guide in its order, without those that need the Hub."""
    for skipped, code in re.findall(
        r"^(<!-- skip: .+ -->\n)?```sh\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL
    ):
        if not skipped:
            yield from map(shlex.split, code.replace("\\\n", " ").splitlines())


def run_small(words):
    """A command line with small numbers in the place of its own."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    words = [SMALL[flag][word] if flag in SMALL else word for flag, word in zip(["", *words], words, strict=False)]
    program, name, rest = words[0], Path(words[1]).stem, words[2:]
    also = [] if "--pretrained_model_name_or_path" in words else ALSO.get(name, [])
    if program == "hfgen":
        assert main([name, *rest, *also]) == 0
    elif name == SCRIPT.stem:
        assert cut_photographs(*rest, *also) == 0
    else:
        assert (program, name[:6]) == ("python", "train_")
        assert run_script(name.removeprefix("train_"), [*rest, *also]) == 0
    return name


def cut_photographs(*words):
    """Its exit status; in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))
        patch.setattr(sys, "argv", [str(SCRIPT), *words])
        return import_module(SCRIPT.stem).main()


@pytest.mark.slow
def test_the_guides_commands(here, monkeypatch):
    monkeypatch.setattr("hfgen.families.vae.VAE.figures", lambda *_, **__: [])
    done, card = [], ""
    for words in commands():
        done.append(run_small(words))
        if done[-1] == "card":
            card = (here / "runs" / "photographs-ddpm" / "README.md").read_text()
    assert done == [
        "cut_photographs",
        "train_ddpm",
        "train_vae",
        "train-features",
        "evaluate",
        "evaluate",
        "compare",
        "card",
        *["train_ddpm"] * 2,
    ]
    for kind in ("ddpm", "vae"):
        results = json.loads((here / "runs" / f"photographs-{kind}" / "results.json").read_text())
        assert "bits/dim" in json.dumps(results)
        assert '"kid"' in json.dumps(results)  # 8 samples are too few for a Frechet distance
        assert (here / "runs" / f"photographs-{kind}" / "training_images.png").is_file()
    assert (here / "runs" / "photographs.html").is_file()
    assert "bits/dim" in card
    assert json.loads((here / "runs" / "photographs-ddpm" / "training.json").read_text())["steps"] == 3
    assert hfgen.load(here / "runs" / "photographs-classes").pipeline.class_names == ["china", "flower"]


def cells():
    book = json.loads(NOTEBOOK.read_text())
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 4)
    return ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code"]


@pytest.mark.slow
def test_the_notebook(here, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    names = {"__name__": "__main__"}
    small = {
        "STRIDE": 16, "STEPS": 2, "FEATURE_STEPS": 2, "SAMPLES": 8, "EVALUATIONS": 100, "IW_SAMPLES": 2,
        "DDPM": {"model_config_name_or_path": "unet.json"}, "VAE": {"model_config_name_or_path": "vae.json"},
    }  # fmt: skip
    first, *rest = cells()
    exec(compile(first, str(NOTEBOOK), "exec"), names)
    assert small.keys() <= names.keys()
    names |= small
    for source in rest:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        exec(compile(source, str(NOTEBOOK), "exec"), names)
    assert (here / "photographs.html").is_file()
    assert hfgen.load(here / "photographs-vae").module.config.likelihood == "discretized_logistic_rgb"


def test_squares_of_the_split_test_are_of_no_pixel_of_the_others(tmp_path, monkeypatch):
    """By a photograph whose pixels are all different."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    module = import_module(SCRIPT.stem)
    numbers = np.arange(213 * 320, dtype=np.uint32)
    pixels = np.stack([numbers % 256, numbers // 256 % 256, numbers // 65536], 1).reshape(213, 320, 3).astype(np.uint8)
    monkeypatch.setattr(module, "photograph", lambda name: Image.fromarray(pixels))
    count = module.cut(tmp_path / "squares", side=32, stride=16)
    seen = {}
    for split in ("train", "test"):
        files = list((tmp_path / "squares" / split).rglob("*.png"))
        assert {path.parent.name for path in files} == {"china", "flower"}
        found = [np.asarray(Image.open(path)).astype(int).reshape(-1, 3) @ [1, 256, 65536] for path in files]
        assert all(len(numbers) == 32 * 32 for numbers in found)
        seen[split] = (len(files), set(np.concatenate(found).tolist()))
    assert seen["train"][0] + seen["test"][0] == count
    assert seen["train"][0] > 2 * seen["test"][0]
    assert not seen["train"][1] & seen["test"][1]


def test_a_folder_that_is_there_is_left_alone(tmp_path, capsys):
    assert cut_photographs(str(tmp_path)) == 1
    assert capsys.readouterr().err == f"{tmp_path} is there already: remove it, or name another folder\n"
    assert list(tmp_path.iterdir()) == []
