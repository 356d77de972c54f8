"""Metrics while training: the distance of samples to held-out images, in the history, the tracker and the curves."""

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image

from hfgen.core.errors import HfgenError
from hfgen.core.history import read_history
from hfgen.data.evaluation_images import load_evaluation_images
from hfgen.data.loading import ImagesInMemory
from hfgen.drawing.draw import draw_samples
from hfgen.evaluation import while_training
from hfgen.evaluation.networks import load_feature_network
from hfgen.evaluation.quality import frechet_distance, kernel_distance
from hfgen.families.ddpm.flags import DiffusionSampling
from hfgen.hub.loading import load

CPU = torch.device("cpu")
FAST = {"ddpm_num_steps": 5}  # all of which the default sampler then takes


@pytest.fixture(autouse=True)
def _few(monkeypatch):
    monkeypatch.setattr(while_training, "COUNT", 70)


def readings(folder):
    return {row["step"]: row for row in read_history(folder / "history.jsonl") if "samples_kid" in row}


@pytest.mark.slow
def test_distances_are_those_of_the_model_at_that_step(train, monkeypatch):
    logged = []
    monkeypatch.setattr(Accelerator, "log", lambda _, values, step=None, **__: logged.append((step, values)))
    folder = train(eval_epochs=2, **FAST)
    found = readings(folder)
    assert list(found) == [8, 12]  # of three epochs of four steps the second and the last
    assert [step for step, values in logged if "samples_frechet" in values] == [8, 12]
    model = load(folder)
    sampler = model.family.sampler(model.pipeline, model.family.sampling_options())
    samples = draw_samples(sampler, device=CPU, num_images=70)
    network = load_feature_network()
    held_out = load_evaluation_images("digits", "test", shape=(1, 8, 8), device=CPU).images
    order = torch.randperm(len(held_out), generator=while_training.seeded("cpu", 0, while_training.Stream.ORDER, 0))
    reference = network(ImagesInMemory(held_out.images[order[:70].sort().values]))
    drawn = network(ImagesInMemory(samples.images))
    # batches of another size are rounded otherwise: a pixel may differ by a level
    assert found[12]["samples_frechet"] == pytest.approx(frechet_distance(drawn, reference), rel=1e-2)
    assert found[12]["samples_kid"] == pytest.approx(kernel_distance(drawn, reference).mean, rel=1e-2)
    assert (folder / "loss.png").is_file()


@pytest.mark.slow
def test_a_training_that_goes_on_has_the_same_distances(train):
    whole = train(eval_epochs=2, **FAST)
    expected = readings(whole)
    (whole / "history.jsonl").write_text(
        "".join(
            line for line in (whole / "history.jsonl").read_text().splitlines(keepends=True) if '"step": 12' not in line
        )
    )
    for checkpoint in whole.glob("checkpoint-12*"):
        for path in checkpoint.iterdir():
            path.unlink()
        checkpoint.rmdir()
    train(eval_epochs=2, resume_from_checkpoint="latest", **FAST)
    assert readings(whole) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": "digits"}, r"^features='digits': only with --eval_epochs, such as --eval_epochs 10$"),
        ({"eval_epochs": 1, "features": "nowhere"}, "^--features nowhere cannot be loaded"),
    ],
)
def test_what_cannot_be_measured_is_told_before_the_first_step(train, offline, tmp_path, changes, message):
    with pytest.raises(HfgenError, match=message):
        train(**changes)
    assert not (tmp_path / "out").exists()


def test_colours_need_a_network_that_sees_them(train, tmp_path):
    pictures = [Image.new("RGB", (8, 8), (i, 255 - i, 90)) for i in range(80)]
    data = Dataset.from_dict({"image": pictures}, features=Features({"image": ImageFeature()}))
    data.save_to_disk(tmp_path / "colours")
    with pytest.raises(HfgenError, match=r"^images of 3 channels: digit classifier takes 1; name other --features$"):
        train(eval_epochs=1, dataset_name=str(tmp_path / "colours"), validation_split=None)


def test_more_than_20_steps_are_never_taken():
    class Sampler:
        class_names = None

        def __init__(self, steps):
            self.calls = steps

    class Family:
        def sampling_options(self):
            return DiffusionSampling()

        def sampling_on(self, options, data):
            return options

        def sampler(self, pipeline, options):
            return Sampler(options.steps or pipeline)

    quality = while_training.SampleQuality(
        family=Family(), network=None, data=None, reference=None, seed=0, batch_size=1
    )
    assert [quality._sampler(default).calls for default in (5, 20, 250)] == [5, 20, 20]


@pytest.mark.slow
def test_grids_of_classes_have_their_names(train):
    """A row for each class, ten of them, where a grid without names has eight."""
    folder = train(class_conditional=True, save_images_epochs=3, **FAST)
    (grid,) = folder.glob("samples/step-*.png")
    for path in (grid, folder / "samples.png"):
        with Image.open(path) as picture:
            assert picture.height == 10 * (56 + 2 * 2)
