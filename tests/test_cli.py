"""The command line: quick to answer, one line for a mistake, files where they were asked for."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from PIL import Image

from hfgen import __version__
from hfgen.cli.main import main
from hfgen.models import MLPVAE
from hfgen.pipelines import UnconditionalDiffusionPipeline, VAEPipeline

NO_HEAVY_IMPORTS = """
import sys
from hfgen.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    heavy = {"torch", "diffusers", "numpy", "PIL", "huggingface_hub"} & set(sys.modules)
    sys.exit(f"imported {heavy}" if heavy else end.code)
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
    )
    folder = tmp_path_factory.mktemp("pipeline")
    UnconditionalDiffusionPipeline(unet, DDPMScheduler(20)).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["sample", "--help"], 0),
        ([], 2),
        (["sample", "x", "--num_images", "0"], 2),
        (["sample", "x", "--eta", "nan"], 2),
        (["sample", "x", "--scheduler", "plms"], 2),
        (["sample", "x", "--num_image", "3"], 2),
    ],
)
def test_help_and_usage_errors_answer_at_once(arguments, status):
    done = subprocess.run([sys.executable, "-c", NO_HEAVY_IMPORTS, *arguments], capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    if status == 2:
        assert done.stderr.startswith("hfgen: error: ")
        assert "--help)\n" in done.stderr
        assert done.stderr.count("\n") == 1


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"hfgen {__version__}\n"


def test_a_grid_and_an_animation(saved, tmp_path, capsys):
    grid, animation = tmp_path / "new/grid.png", tmp_path / "other/t.gif"
    arguments = ["--num_images", "9", "--batch_size", "4", "--out", str(grid), "--trajectory", str(animation)]
    assert main(["sample", saved, *arguments, "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    told = captured.out.splitlines()
    assert told[0] == f"{grid}: 9 images of 1x8x8"
    assert told[1] == f"{animation}: 20 frames of 9 images"
    assert "images/s (ddpm, 20 steps, cpu)" in told[2]
    assert "60/60" in captured.err
    with Image.open(grid) as picture, Image.open(animation) as frames:
        assert picture.size == frames.size == (3 * 58 + 2, 3 * 58 + 2)
        assert frames.n_frames == 20


def test_the_default_is_20_steps_of_the_sde_solver(saved, tmp_path, capsys):
    UNet2DModel.from_pretrained(saved, subfolder="unet").save_pretrained(tmp_path / "long/unet")
    DDPMScheduler(50).save_pretrained(tmp_path / "long/scheduler")
    shutil.copy(f"{saved}/model_index.json", tmp_path / "long")
    grids = [tmp_path / "a.png", tmp_path / "b.png"]
    for grid, flags in zip(grids, ([], ["--scheduler", "sde-dpmsolver++", "--steps", "20"]), strict=True):
        arguments = ["--num_images", "4", "--out", str(grid), "--device", "cpu", *flags]
        assert main(["sample", str(tmp_path / "long"), *arguments]) == 0
        assert "(sde-dpmsolver++, 20 steps, cpu)" in capsys.readouterr().out
    assert grids[0].read_bytes() == grids[1].read_bytes()


def test_a_vae_is_not_compiled(repository, capsys):
    fails(
        capsys,
        "a VAE draws an image in one step, there is nothing to compile: leave it out",
        str(repository / "model_cards/vae-mnist-2d"),
        "--compile",
    )


def test_single_files_are_the_same_for_the_same_seed(saved, tmp_path):
    for name, count in (("a", 3), ("b", 2)):
        arguments = ["--num_images", str(count), "--steps", "5", "--scheduler", "ddim", "--seed", "7"]
        assert main(["sample", saved, *arguments, "--out", str(tmp_path / name), "--device", "cpu"]) == 0
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == [".hfgen-samples.json", "00000.png", "00001.png", "00002.png"]
    with Image.open(tmp_path / "a/00001.png") as first, Image.open(tmp_path / "b/00001.png") as second:
        pairs = zip(first.tobytes(), second.tobytes(), strict=True)
        assert max(abs(a - b) for a, b in pairs) <= 1


def fails(capsys, message, *arguments):
    assert main(["sample", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("hfgen: error: ")
    assert message in error
    assert error.count("\n") == 1


def test_outputs_are_checked_before_the_pipeline_is_loaded(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    fails(capsys, "grids are PNG files", "nowhere/x", "--out", "grid.jpg")
    fails(capsys, "animations are GIF files", "nowhere/x", "--trajectory", "t.mp4")
    fails(capsys, "is no folder", "nowhere/x", "--out", str(tmp_path / "file/grid.png"))
    fails(capsys, "files in it", "nowhere/x", "--out", str(tmp_path))
    (tmp_path / "folder.png").mkdir()
    fails(capsys, "is a folder: name a file", "nowhere/x", "--out", str(tmp_path / "folder.png"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path, capsys):
    tmp_path.chmod(0o500)
    fails(capsys, "no permission", "nowhere/x", "--out", str(tmp_path / "grid.png"))


def test_mistakes_take_one_line(saved, tmp_path, capsys):
    out = ["--out", str(tmp_path / "grid.png")]
    fails(capsys, "does not exist", str(tmp_path / "nowhere"), *out)
    fails(capsys, "use 1..20", saved, "--steps", "21", *out)
    fails(capsys, "has no eta", saved, "--eta", "0.5", *out)
    fails(capsys, "device 'toaster'", saved, "--device", "toaster", *out)
    assert not (tmp_path / "grid.png").exists()


def test_files_that_are_no_pictures_stay(saved, tmp_path, capsys):
    """--overwrite is for folders: a grid never takes the place of what is none."""
    picture, text = tmp_path / "grid.png", "mine"
    picture.write_text(text)
    (tmp_path / "t.gif").write_text(text)
    for flags in ([], ["--overwrite"]):
        fails(capsys, "grid.png is there and no PNG: name another file", saved, "--out", str(picture), *flags)
        arguments = ["--out", str(tmp_path / "new.png"), "--trajectory", str(tmp_path / "t.gif")]
        fails(capsys, "t.gif is there and no GIF: name another file", saved, *arguments, *flags)
    assert picture.read_text() == (tmp_path / "t.gif").read_text() == text
    fails(capsys, "is a part of the pipeline in", saved, "--out", f"{saved}/unet/grid.png")
    arguments = ["--num_images", "2", "--steps", "2", "--device", "cpu", "--out", str(tmp_path / "new.png")]
    assert main(["sample", saved, *arguments]) == 0
    first = (tmp_path / "new.png").read_bytes()
    assert main(["sample", saved, *arguments, "--seed", "1"]) == 0
    assert (tmp_path / "new.png").read_bytes() != first


def test_the_files_are_written_before_anything_is_told(saved, tmp_path, monkeypatch):
    grid, animation = tmp_path / "grid.png", tmp_path / "t.gif"
    seen = []

    def told(*_, **__):
        seen.append(grid.is_file() and animation.is_file())

    monkeypatch.setattr("builtins.print", told)
    arguments = ["--num_images", "2", "--steps", "3", "--out", str(grid), "--trajectory", str(animation)]
    assert main(["sample", saved, *arguments, "--device", "cpu"]) == 0
    assert seen
    assert all(seen)


def test_figures_replace_pictures_alone(tmp_path, capsys):
    VAEPipeline(MLPVAE(sample_size=8, latent_size=2, hidden_sizes=(8,))).save_pretrained(tmp_path / "vae")
    out = tmp_path / "out"
    words = ["figures", str(tmp_path / "vae"), "--dataset_name", "digits", "--max_images", "20", "--out", str(out)]
    assert main([*words, "--split", "none"]) == 1
    assert not out.exists()
    assert main(words) == 0
    names = sorted(path.name for path in out.iterdir())
    assert "samples.png" in names
    assert main(words) == 0
    assert sorted(path.name for path in out.iterdir()) == names
    (out / "samples.png").write_text("mine")
    capsys.readouterr()
    assert main(words) == 1
    assert "samples.png is there and no PNG: name another file" in capsys.readouterr().err
    assert (out / "samples.png").read_text() == "mine"
    assert sorted(path.name for path in out.iterdir()) == names
