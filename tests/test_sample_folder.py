"""`hfgen sample --out FOLDER`: each image whole or absent, work broken off goes on, and nobody's file is lost."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from drawing import draw, model_of
from PIL import Image

from hfgen.cli.main import main
from hfgen.configs.sampling import SamplingConfig
from hfgen.core.errors import HfgenError
from hfgen.core.media import to_pil
from hfgen.models import MLPVAE
from hfgen.pipelines import UnconditionalDiffusionPipeline, VAEPipeline
from hfgen.sampling import folder as module
from hfgen.sampling.folder import draw_into_folder

COUNT, BATCH = 10, 4
SETTINGS = ".hfgen-samples.json"


def pipeline(seed=0):
    torch.manual_seed(seed)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
    )
    return UnconditionalDiffusionPipeline(unet.eval(), DDPMScheduler(10))


@pytest.fixture(scope="module")
def model():
    return model_of(pipeline())


@pytest.fixture(scope="module")
def expected(model):
    return draw(model.pipeline, COUNT, batch_size=BATCH).images


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


def config(**changes):
    return SamplingConfig(**{"num_images": COUNT, "batch_size": BATCH, **changes})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def png_names(count=COUNT):
    return [f"{i:05d}.png" for i in range(count)]


def same_images(folder, images):
    return all(
        Image.open(folder / name).tobytes() == image.tobytes()
        for name, image in zip(png_names(len(images)), to_pil(images), strict=True)
    )


@pytest.fixture
def broken_off(monkeypatch):
    """Interrupt before an image of this number is written."""

    def at(number):
        save = module.save_png

        def impatient(image, path):
            if path.name == f"{number:05d}.png":
                raise KeyboardInterrupt
            save(image, path)

        monkeypatch.setattr(module, "save_png", impatient)

    return at


@pytest.mark.parametrize("number", range(COUNT))
def test_it_goes_on_with_the_batch_that_is_not_whole(model, expected, folder, broken_off, monkeypatch, number):
    broken_off(number)
    with pytest.raises(KeyboardInterrupt):
        draw_into_folder(model, config(), folder)
    assert names(folder) == [SETTINGS, *png_names(number)]
    monkeypatch.undo()
    done = draw_into_folder(model, config(), folder)
    assert done.drawn == COUNT - number // BATCH * BATCH
    assert names(folder) == [SETTINGS, *png_names()]
    assert same_images(folder, expected)
    assert draw_into_folder(model, config(), folder).drawn == 0


def test_another_batch_size_goes_on(model, expected, folder, broken_off, monkeypatch):
    broken_off(5)
    with pytest.raises(KeyboardInterrupt):
        draw_into_folder(model, config(), folder)
    monkeypatch.undo()
    assert draw_into_folder(model, config(batch_size=3), folder).drawn == COUNT - 3
    for name, image in zip(png_names(), expected, strict=True):
        found = torch.tensor(list(Image.open(folder / name).tobytes()))
        assert (found - image.flatten().int()).abs().max() <= 1


def test_images_that_are_damaged_or_gone_are_drawn_anew(model, expected, folder, capsys):
    draw_into_folder(model, config(), folder)
    (folder / "00001.png").write_bytes((folder / "00001.png").read_bytes()[:-20])
    (folder / "00009.png").unlink()
    capsys.readouterr()
    assert draw_into_folder(model, config(), folder).drawn == 4 + 2
    assert f"hfgen: {folder / '00001.png'} is damaged: it is done anew\n" in capsys.readouterr().err
    assert same_images(folder, expected)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 1}, "seed"),
        ({"num_images": 11}, "num_images"),
        ({"options": {"steps": 5}}, "how, options"),
        ({"model": 1}, "weights"),
    ],
)
def test_another_work_is_refused_or_replaced(model, folder, changes, named):
    draw_into_folder(model, config(), folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    changes = dict(changes)
    other = model_of(pipeline(changes.pop("model"))) if "model" in changes else model
    with pytest.raises(HfgenError, match=rf"holds images of another work \({named} differ\).*--overwrite") as told:
        draw_into_folder(other, config(**changes), folder)
    assert "\n" not in str(told.value)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    asked = config(**changes)
    assert draw_into_folder(other, asked, folder, overwrite=True).drawn == asked.num_images
    wanted = draw(other.pipeline, asked.num_images, seed=asked.seed, batch_size=BATCH, **asked.options).images
    assert same_images(folder, wanted)


def test_the_default_said_aloud_is_the_same_work(model, folder):
    draw_into_folder(model, config(), folder)
    assert draw_into_folder(model, config(options={"eta": None}), folder).drawn == 0


@pytest.mark.parametrize("name", ["notes.txt", "00012.png", "1.png", "000001.png", "00003.png/", ".hfgen-samples.json"])
def test_files_of_others_are_refused_and_stay(model, folder, name):
    path = folder / name
    path.mkdir() if name.endswith("/") else path.write_bytes(b"mine")
    with pytest.raises(HfgenError, match="is a folder with files in it that hfgen did not draw") as told:
        draw_into_folder(model, config(), folder)
    assert "\n" not in str(told.value)
    assert names(folder) == [path.name]
    if name in ("notes.txt", "1.png", "000001.png"):
        assert draw_into_folder(model, config(), folder, overwrite=True).drawn == COUNT
        assert names(folder) == sorted([SETTINGS, *png_names(), name])
    else:
        with pytest.raises(HfgenError, match=r"name a new folder$"):
            draw_into_folder(model, config(), folder, overwrite=True)
    assert path.is_dir() or path.read_bytes() == b"mine"


def test_overwriting_removes_what_hfgen_drew_and_nothing_else(model, folder):
    draw_into_folder(model, config(), folder)
    (folder / "notes.txt").write_text("mine")
    (folder / ".00003.png.abcd1234.part").write_text("half")
    with pytest.raises(HfgenError, match=r"did not draw: notes\.txt;"):
        draw_into_folder(model, config(num_images=2), folder)
    draw_into_folder(model, config(num_images=2), folder, overwrite=True)
    assert names(folder) == [SETTINGS, *png_names(2), "notes.txt"]
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_trajectory_beside_the_files_does_not_depend_on_breaks(model, folder, broken_off, monkeypatch):
    whole = draw(model.pipeline, 20, batch_size=BATCH, trajectory=True)
    broken_off(18)
    with pytest.raises(KeyboardInterrupt):
        draw_into_folder(model, config(num_images=20, trajectory=True), folder)
    monkeypatch.undo()
    done = draw_into_folder(model, config(num_images=20, trajectory=True), folder)
    assert torch.equal(done.head.trajectory, whole.trajectory)
    assert same_images(folder, whole.images)


def test_a_vae_too(folder):
    torch.manual_seed(0)
    model = model_of(VAEPipeline(MLPVAE(sample_size=8, latent_size=2, hidden_sizes=(8,))))
    assert draw_into_folder(model, config(), folder).drawn == COUNT
    assert same_images(folder, draw(model.pipeline, COUNT, batch_size=BATCH).images)


def test_the_command_says_what_was_there(tmp_path, capsys):
    pipeline().save_pretrained(tmp_path / "model")
    out = tmp_path / "out"
    command = ["sample", str(tmp_path / "model"), "--num_images", "3", "--device", "cpu", "--out", str(out)]
    assert main(command) == 0
    assert "images/s" in capsys.readouterr().out
    times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert main(command) == 0
    told = capsys.readouterr().out.splitlines()
    assert told == [f"{out}: 3 images of 1x8x8", "3 of them were there already"]
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == times
    assert main([*command, "--seed", "1"]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main([*command, "--seed", "1", "--overwrite"]) == 0


@pytest.mark.slow
def test_a_killed_command_goes_on(tmp_path):
    """kill -9 at a moment of no choice: what is there is whole, and the rest is as if nothing had been."""
    pipeline().save_pretrained(tmp_path / "model")
    arguments = ["--num_images", "100", "--batch_size", "4", "--device", "cpu"]
    command = [sys.executable, "-m", "hfgen.cli", "sample", str(tmp_path / "model"), *arguments]
    out = tmp_path / "out"
    running = subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not (out / "00009.png").exists():
        assert running.poll() is None, running.stderr.read().decode()
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    there = [path for path in out.iterdir() if path.suffix == ".png"]
    assert 10 <= len(there) < 100
    for path in there:
        with Image.open(path) as image:
            image.load()
    times = {path: path.stat().st_mtime_ns for path in there}
    again = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, check=True)
    assert "of them were there already" in again.stdout
    assert names(out) == [SETTINGS, *png_names(100)]
    assert sum(path.stat().st_mtime_ns == times[path] for path in there) >= 8
    assert same_images(out, draw(pipeline(), 100, batch_size=4).images)


def test_samples_that_are_not_finite_are_none(model, folder):
    damaged = pipeline()
    with torch.no_grad():
        damaged.unet.conv_out.bias.fill_(float("nan"))
    message = r"images 0\.\.3 came out as nan or inf, which is no sample"
    with pytest.raises(HfgenError, match=message):
        draw(damaged, COUNT, batch_size=BATCH)
    with pytest.raises(HfgenError, match=message):
        draw_into_folder(model_of(damaged), config(), folder)
    assert names(folder) == []


def test_the_settings_are_json_without_a_path(model, folder):
    draw_into_folder(model, config(), folder)
    written = json.loads((folder / SETTINGS).read_text())
    assert written["begun"] == COUNT
    assert written["settings"]["seed"] == 0
    assert str(folder) not in (folder / SETTINGS).read_text()
    assert os.sep not in written["settings"]["how"]
