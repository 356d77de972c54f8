"""A training on a folder of images of all kinds, from what is said before it begins to what is measured after it."""

import json

import numpy as np
import PIL.Image
import pytest
from accelerate import Accelerator

import hfgen
from hfgen.configs.training import DataConfig, TrainingConfig
from hfgen.core.errors import HfgenError
from hfgen.data.training_set import load_training_set
from hfgen.families.ddpm.flags import DDPMFlags
from hfgen.trainer.loop import Trainer
from hfgen.trainer.record import run_identity


@pytest.fixture
def photos(tmp_path):
    """40 images: the first one grey, the others in colour, every fourth of these with hidden colours in clear corners."""
    random = np.random.default_rng(0)
    for i in range(40):
        place = tmp_path / "photos" / ("ant" if i < 30 else "bee") / f"{i:02}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 100, (8, 8, 4), dtype=np.uint8)
        pixels[..., 3] = 255
        if i % 4 == 1:
            pixels[:2, :2] = (0, 0, 0, 0)
        image = PIL.Image.fromarray(pixels)
        (image.convert("L") if i == 0 else image.convert("RGBA" if i % 4 == 1 else "RGB")).save(place)
    return tmp_path / "photos"


@pytest.fixture
def on_photos(train, photos, tmp_path):
    def run(**flags):
        named = {"dataset_name": None, "train_data_dir": photos, "cache_dir": tmp_path / "cache"}
        return train(**{**named, "validation_split": None, "max_train_steps": 2, "checkpointing_steps": 1, **flags})

    return run


@pytest.mark.slow
def test_a_training_says_what_it_sees_and_its_model_is_measured_on_what_it_held_out(on_photos, tmp_path, capsys):
    out = on_photos(max_train_samples=20)
    told = capsys.readouterr().out
    assert "20 training images of 3x8x8, held out: 4 taken from 'train'" in told
    assert "\n2 classes: ant 15, bee 5\n" in told
    assert "images is grey: taken as RGB" in told
    assert "transparent in parts: composited on white" in told
    with PIL.Image.open(out / "training_images.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert (pixels == 255).all(-1).mean() > 0.01  # the clear corners are white, nothing else is lighter than 100
    data = json.loads((out / "training.json").read_text())["data"]
    assert (data["source"], data["name"], data["rows"]) == ("local", "photos", 40)
    assert str(tmp_path) not in (out / "training.json").read_text()
    result = hfgen.evaluate(out, evaluations=100, likelihood=True)
    assert (result.dataset, result.split, result.images) == ("photos", "train, held out", 4)
    assert "hfgen: images that the training held out: 4 of split 'train' of photos" in capsys.readouterr().err


@pytest.mark.slow
def test_the_picture_is_there_before_the_first_step(on_photos, tmp_path, monkeypatch):
    def end(self, micro_batches):
        assert (tmp_path / "out" / "training_images.png").is_file()
        raise HfgenError("ended")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "advance", end)
        with pytest.raises(HfgenError, match="ended"):
            on_photos()
    assert (on_photos(resume_from_checkpoint="latest") / "training_images.png").is_file()


@pytest.mark.slow
def test_a_training_goes_on_over_the_same_background_alone(on_photos, photos):
    on_photos(max_train_steps=1, lr_scheduler="constant")
    with pytest.raises(HfgenError, match=r"of another configuration .*background: white there, black here"):
        on_photos(lr_scheduler="constant", background="black", resume_from_checkpoint="latest")
    on_photos(lr_scheduler="constant", resume_from_checkpoint="latest")


def test_checkpoints_of_before_there_was_a_background_go_on():
    """Of images without transparency the flags that are new say nothing."""
    data = DataConfig(dataset_name="digits", background="black")
    images = load_training_set(data, channels=None, resolution=None, seed=0, accelerator=Accelerator(cpu=True))
    identity = run_identity(TrainingConfig(family="ddpm", model=DDPMFlags(), data=data), images, {})
    assert not {"background", "dataset"} & identity.keys()
