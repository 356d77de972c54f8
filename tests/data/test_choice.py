"""Which images a model is measured on, from the record of its training."""

import json

import numpy as np
import PIL.Image
import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset, Features, Image, Value

from hfgen.configs.evaluation import EvaluationConfig
from hfgen.configs.training import DataConfig
from hfgen.core.errors import HfgenError
from hfgen.data.choice import choose_images
from hfgen.data.origin import PLACE_FILE, keep_place, origin_of_json
from hfgen.data.training_set import load_training_set
from hfgen.results import TrainingRecord

CPU = torch.device("cpu")
TOLD = {
    **{"command": "", "train_split": "train", "images": 1, "image_shape": (1, 4, 4), "held_out": "", "steps": 1},
    **{
        "epochs": 1.0,
        "batch_size": 1,
        "learning_rate": 1.0,
        "averaged_weights": True,
        "loss": "",
        "held_out_loss": None,
    },
    **{"seconds": 1.0, "processes": 1, "mixed_precision": "no", "run_metadata": {}, "dataset": None},
}


@pytest.fixture
def photos(tmp_path):
    """A folder of 40 grey images of 5x4, each of its own level, in two folders of classes."""
    for i in range(40):
        place = tmp_path / "photos" / ("ant" if i < 20 else "bee") / f"{i:02}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("L", (5, 4), 5 * i).save(place)
    return tmp_path / "photos"


@pytest.fixture
def record(tmp_path):
    """Train on nothing: what a training on data flags leaves in a folder of that name."""

    def make(name="model", seed=0, dataset=None, data=None, **flags):
        data = data or DataConfig(cache_dir=str(tmp_path / "cache"), **flags)
        images = load_training_set(data, channels=None, resolution=None, seed=seed, accelerator=Accelerator(cpu=True))
        folder = tmp_path / name
        folder.mkdir()
        told = TrainingRecord(**{**TOLD, "dataset": dataset}, data=images.origin.to_json())
        told.save(folder / "training.json")
        keep_place(folder, data)
        return folder, images

    return make


def chosen(*folders, **flags):
    return choose_images(EvaluationConfig(**flags), {folder.name: folder for folder in folders})


def pixels(selection):
    return selection.load((1, 4, 4), CPU).images.images


def test_by_default_the_rows_that_the_training_held_out(photos, record):
    folder, images = record(train_data_dir=str(photos), max_train_samples=10, background="black")
    choice = chosen(folder)
    assert pixels(choice.held_out).equal(images.validation.images)
    found = choice.held_out.load((1, 4, 4), CPU)
    assert (found.labels.tolist(), found.class_names) == (images.labels.tolist(), ["ant", "bee"])
    assert (choice.name, choice.split) == ("photos", "train, held out")
    assert choice.told == "images that the training held out: 4 of split 'train' of photos"
    levels = pixels(choice.training(None))[:, 0, 0, 0]
    assert sorted(levels.tolist()) == sorted(images.train.images[:, 0, 0, 0].tolist())
    assert choice.held_out.background == "black"
    assert len(pixels(choice.training("train"))) == 40


def test_without_a_smaller_number_all_other_rows_are_the_trainings(photos, record):
    folder, images = record(train_data_dir=str(photos))
    levels = pixels(chosen(folder).training(None))[:, 0, 0, 0].tolist()
    assert sorted(levels) == sorted(images.train.images[:, 0, 0, 0].tolist())


def test_named_by_any_flag_the_trainings_images_are_known_again(photos, record):
    folder, images = record(train_data_dir=str(photos))
    for flags in ({"dataset_name": str(photos)}, {"train_data_dir": str(photos)}):
        assert pixels(chosen(folder, **flags).held_out).equal(images.validation.images)
    assert len(pixels(chosen(folder, train_data_dir=str(photos), split="train").held_out)) == 40
    with pytest.raises(HfgenError, match="'test' is not in 'photos': it has train; name one with --split"):
        chosen(train_data_dir=str(photos))


def test_a_place_stays_on_this_machine(photos, record, tmp_path):
    folder, _ = record(train_data_dir=str(photos))
    assert str(tmp_path) not in (folder / "training.json").read_text()
    (folder / PLACE_FILE).unlink()
    with pytest.raises(
        HfgenError, match=r"^model: trained on the local dataset 'photos', which is not where it was: name"
    ):
        chosen(folder)


def test_images_that_have_changed_are_not_taken_for_held_out_ones(photos, record):
    folder, _ = record(train_data_dir=str(photos))
    PIL.Image.new("L", (5, 4)).save(photos / "ant" / "000.png")
    with pytest.raises(HfgenError, match="the images of photos are not those of the training any more"):
        chosen(folder)
    with pytest.raises(HfgenError, match="'test' is not in 'photos'"):
        chosen(folder, train_data_dir=str(photos))


def test_a_named_split_is_held_out_whole(record):
    folder, images = record(dataset_name="digits", validation_split="test")
    choice = chosen(folder)
    assert (choice.name, choice.split, choice.held_out.dataset.num_rows) == ("digits", "test", 297)
    assert choice.held_out.load((1, 8, 8), CPU).images.images.equal(images.validation.images)
    assert choice.training(None).dataset.num_rows == 1500


def test_trainings_of_before_told_their_dataset_alone(tmp_path):
    TrainingRecord(**{**TOLD, "dataset": "digits"}).save(tmp_path / "training.json")
    choice = chosen(tmp_path)
    assert (choice.name, choice.split, choice.held_out.dataset.num_rows) == ("digits", "test", 297)
    assert choice.told == "images of the training's dataset: split 'test' of digits"
    assert choice.training(None).dataset.num_rows == 1500
    TrainingRecord(**TOLD).save(tmp_path / "training.json")
    with pytest.raises(HfgenError, match="nothing tells where the local dataset lies"):
        chosen(tmp_path)
    (tmp_path / "training.json").unlink()
    with pytest.raises(
        HfgenError, match=r"nothing tells on which images it was trained: name those to measure on with --data"
    ):
        chosen(tmp_path)


def test_models_are_compared_on_images_that_none_was_trained_on(photos, record, tmp_path):
    one, images = record("one", train_data_dir=str(photos))
    two, _ = record("two", train_data_dir=str(photos), max_train_samples=8)
    choice = chosen(one, two, tmp_path)  # a third of which nothing is known
    assert pixels(choice.held_out).equal(images.validation.images)
    assert choice.training(None).dataset.num_rows == 36
    three, _ = record("three", train_data_dir=str(photos), seed=1)
    with pytest.raises(HfgenError, match=r"^one, three: their trainings held out different images"):
        chosen(one, three)


def test_objects_of_datasets(record):
    features = Features({"image": Image(), "kind": Value("string")})
    values = {"image": [np.full((4, 4), i, np.uint8) for i in range(30)], "kind": ["ant", "bee", "cat"] * 10}
    dataset = Dataset.from_dict(values, features=features)
    data = DataConfig(dataset=dataset.with_format("torch"), label_column="kind")
    folder, images = record(data=data)
    assert (images.origin.source, images.origin.name) == ("python", "")
    assert images.labels.bincount(minlength=3).tolist() == [1, 1, 1]
    with pytest.raises(HfgenError, match="trained on a dataset from Python: pass it as dataset="):
        chosen(folder)
    choice = chosen(folder, dataset=dataset)
    found = choice.held_out.load((1, 4, 4), CPU)
    assert found.images.images.equal(images.validation.images)
    assert found.labels.equal(images.labels)
    assert (choice.name, choice.split) == ("a dataset from Python", "train, held out")
    others = chosen(folder, dataset=dataset.select(range(7)))
    assert (others.split, others.held_out.dataset.num_rows) == ("train", 7)
    with pytest.raises(HfgenError, match="dataset is a IterableDataset: pass a Dataset or DatasetDict"):
        chosen(folder, dataset=dataset.to_iterable_dataset())


def test_other_images_are_resized_only_if_asked(photos, capsys):
    named = {"train_data_dir": str(photos), "split": "train"}
    with pytest.raises(
        HfgenError, match=r"images are 1x4x5 .*, the model's 1x4x4: .*--resolution 4 to have them resized"
    ):
        pixels(chosen(**named).held_out)
    with pytest.raises(HfgenError, match="resolution=5: the model's images are 1x4x4"):
        pixels(chosen(**named, resolution=5).held_out)
    assert pixels(chosen(**named, resolution=4).held_out)[:, 0, 0, 0].tolist() == list(range(0, 200, 5))
    assert "hfgen: 40 of 40 images are of 5x4: the shorter side is made 4" in capsys.readouterr().err


def test_some_images_are_drawn_from_all_classes(photos):
    found = chosen(train_data_dir=str(photos), split="train", resolution=4).held_out.load((1, 4, 4), CPU, max_images=6)
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert (found.images.images[:, 0, 0, 0] >= 100).tolist() == [False] * 3 + [True] * 3
    assert found.labels[found.some(2)].tolist() == [0, 1]


def test_a_record_that_is_none_is_named(record):
    _, images = record(dataset_name="digits")
    value = images.origin.to_json()
    assert origin_of_json(json.loads(json.dumps(value)), "x") == images.origin
    for change in ({"rows": "1"}, {"held_out_rows": 3}, {"class_names": "ab"}, {"more": 1}):
        with pytest.raises(HfgenError, match=rf"^x: data: {next(iter(change))} is not what hfgen writes there"):
            origin_of_json({**value, **change}, "x")
    for rows in ("", "a", "1500", "-1", "3-4-5"):
        with pytest.raises(HfgenError, match=r"^x: data: held_out_rows are no rows of 1500"):
            origin_of_json({**value, "held_out_rows": rows}, "x")


def test_trainings_of_before_and_of_now_on_the_same_split(record, tmp_path):
    now, _ = record("now", dataset_name="digits", validation_split="test")
    before = tmp_path / "before"
    before.mkdir()
    TrainingRecord(**{**TOLD, "dataset": "digits"}).save(before / "training.json")
    choice = chosen(before, now)
    assert (choice.split, choice.held_out.dataset.num_rows, choice.origin is None) == ("test", 297, False)


def test_flags_of_named_images_need_a_name(record):
    folder, _ = record(dataset_name="digits")
    with pytest.raises(HfgenError, match="--label_column, --resolution: only with --dataset_name or --train_data_dir"):
        chosen(folder, label_column="label", resolution=8)
