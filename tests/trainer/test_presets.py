"""What a training takes where no model is named, what it says of it, how long a step takes, and previews."""

import json
import re
import shlex
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import hfgen
from hfgen.core.media import image_grid
from hfgen.trainer import progress
from hfgen.trainer.progress import Progress, words_of

SMALL = {
    "validation_split": None,
    "num_epochs": None,
    "max_train_steps": 1,
    "model_config_name_or_path": None,
    "checkpointing_steps": 100,
}


@pytest.fixture
def pictures(tmp_path):
    """Folders of 24 pictures of noise, by their size and mode."""

    def make(side, mode):
        folder = tmp_path / f"{mode}-{side}"
        folder.mkdir()
        shape = (side, side, 3) if mode == "RGB" else (side, side)
        for i in range(24):
            pixels = np.random.default_rng(i).integers(0, 256, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
        return {"dataset_name": None, "train_data_dir": folder}

    return make


@pytest.mark.slow
def test_the_preset_is_chosen_by_the_images_and_said(train, pictures, capsys):
    out = train(**SMALL, **pictures(32, "RGB"))
    told = capsys.readouterr().out
    assert "preset rgb-32, chosen by the images' shape, 948,931 parameters" in told
    assert "hint" not in told
    words = shlex.split(json.loads((out / "training.json").read_text())["command"])
    assert words[words.index("--model_config_name_or_path") + 1] == "rgb-32"
    assert words[words.index("--prediction_type") + 1] == "v_prediction"


def test_colours_are_not_taken_for_black_and_white(train_a_vae, pictures, capsys):
    out = train_a_vae(**SMALL, **pictures(32, "RGB"))
    assert "preset rgb-32, chosen by the images' shape" in capsys.readouterr().out
    assert hfgen.load(out).module.config.likelihood == "discretized_logistic_rgb"


def test_a_preset_of_other_images_is_hinted_at(train_a_vae, pictures, capsys):
    train_a_vae(**{**SMALL, "model_config_name_or_path": "mnist-50d"}, **pictures(32, "RGB"))
    told = capsys.readouterr().out
    hint = "the preset rgb-32 suits better than mnist-50d: --model_config_name_or_path rgb-32"
    assert f"hint: for images of 3x32x32 on a {'GPU' if torch.cuda.is_available() else 'CPU'} {hint}" in told
    assert "chosen by" not in told


def test_the_duration_of_a_step_is_told_after_ten(train_a_vae, capsys):
    train_a_vae(num_epochs=5)
    told = capsys.readouterr().out
    pattern = r"^[\d.e-]+ s a step: about \d+ s for the 9 to come, beside held-out losses and samples$"
    assert len(re.findall(pattern, told, re.MULTILINE)) == 1


def test_a_training_of_few_steps_tells_none(train_a_vae, capsys):
    train_a_vae(num_epochs=1)
    assert "a step" not in capsys.readouterr().out


@pytest.fixture
def clock(monkeypatch):
    """The time, which only passes when it is set on."""
    time = SimpleNamespace(now=100.0)
    monkeypatch.setattr(progress.time, "perf_counter", lambda: time.now)
    return time


def ticked(tmp_path, clock, seconds, steps, first=0, paused=0.0):
    accelerator = SimpleNamespace(is_main_process=True, device=torch.device("cpu"), log=lambda *_, **__: None)
    shown = Progress(accelerator, tmp_path, first, 1010, 16)
    lines = []
    shown.bar.write = lines.append
    with shown:
        for _ in range(steps):
            clock.now += seconds
            shown.tick()
            with shown.paused():
                clock.now += paused
    return lines


def test_what_is_told_of_the_time(tmp_path, clock):
    assert ticked(tmp_path, clock, 4.0, 10) == []
    (line,) = ticked(tmp_path, clock, 4.0, 30, paused=500.0)
    # the first step warms up; ten more; of 1,010 are 999 left
    assert line == "4 s a step: about 67 min for the 999 to come, beside held-out losses and samples"
    (line,) = ticked(tmp_path, clock, 90.0, 3)  # nobody waits for ten of these
    assert line == "90 s a step: about 25 h for the 1,008 to come, beside held-out losses and samples"
    (line,) = ticked(tmp_path, clock, 0.25, 30, first=900)
    assert line == "0.25 s a step: about 25 s for the 99 to come, beside held-out losses and samples"


def test_durations_in_words():
    assert [words_of(s) for s in (3, 119, 120, 7199, 7200, 172_799, 172_800)] == [
        "3 s", "119 s", "2 min", "120 min", "2 h", "48 h", "2 days",
    ]  # fmt: skip


def test_previews_are_those_of_the_default_sampler(train):
    """The last grid is what `hfgen.sample` draws of the same seed, 20 steps of its default."""
    out = train(num_epochs=1, save_images_epochs=1, prediction_type="epsilon", ddpm_beta_schedule="linear", seed=3)
    samples = hfgen.sample(hfgen.load(out), num_images=64, seed=3)
    assert samples.how == "sde-dpmsolver++, 20 steps"
    preview = np.asarray(Image.open(out / "samples" / "step-0000004.png")).astype(int)
    # rounding of float32 sums at times moves a pixel by a level
    assert np.abs(preview - np.asarray(image_grid(samples.images))).max() <= 1


def test_previews_of_steps_that_are_named_are_ancestral(train):
    out = train(num_epochs=1, save_images_epochs=1, ddpm_num_inference_steps=3)
    samples = hfgen.sample(hfgen.load(out), num_images=64, seed=0, scheduler="ddpm", steps=3)
    preview = np.asarray(Image.open(out / "samples" / "step-0000004.png")).astype(int)
    assert np.abs(preview - np.asarray(image_grid(samples.images))).max() <= 1
