"""From data flags to images."""

import numpy as np
import pytest
from accelerate import Accelerator
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image
from sklearn.datasets import load_digits

from hfgen.configs.training import DataConfig
from hfgen.core.errors import HfgenError
from hfgen.data.subset import rows_of_text
from hfgen.data.training_set import load_training_set


def load(model_channels=None, model_resolution=None, **flags):
    return load_training_set(
        DataConfig(**flags),
        channels=model_channels,
        resolution=model_resolution,
        seed=0,
        accelerator=Accelerator(cpu=True),
    )


@pytest.fixture
def wide_folder(tmp_path):
    """40 training and 4 test images of 12x8 in colour, whose pixels are (row number, column, 0)."""

    def split(first, count):
        images = np.zeros((count, 8, 12, 3), np.uint8)
        images[..., 0] = np.arange(first, first + count)[:, None, None]
        images[..., 1] = np.arange(12)
        return Dataset.from_dict(
            {"image": list(images), "label": [i % 2 for i in range(count)]},
            features=Features({"image": Image(), "label": ClassLabel(num_classes=2)}),
        )

    DatasetDict(train=split(0, 40), test=split(40, 4)).save_to_disk(str(tmp_path))
    return str(tmp_path)


def test_digits_with_a_named_split():
    images = load(dataset_name="digits", validation_split="test")
    assert (len(images.train), len(images.validation)) == (1500, 297)
    assert (images.channels, images.resolution) == (1, 8)
    assert images.held_out == "the split 'test'"
    pixels = np.concatenate([images.train.images, images.validation.images])[:, 0]
    assert np.array_equal(np.rint(pixels * (16 / 255)), load_digits().images)


def test_held_out_images_are_not_trained_on(wide_folder):
    images = load(dataset_name=wide_folder)
    train, held_out = (set(part.images[:, 0, 0, 0].tolist()) for part in (images.train, images.validation))
    assert len(held_out) == 4
    assert train | held_out == set(range(40))
    assert not train & held_out


def test_fewer_images_are_drawn_from_all_classes_and_the_held_out_ones_stay(tmp_path):
    """90 images of three classes, one after the other, as in a folder of classes."""
    labels = [i // 30 for i in range(90)]
    features = Features({"image": Image(), "label": ClassLabel(names=["ant", "bee", "cat"])})
    pixels = [np.full((4, 4), i, np.uint8) for i in range(90)]
    Dataset.from_dict({"image": pixels, "label": labels}, features=features).save_to_disk(str(tmp_path))
    few, again, all_of_them = (load(dataset_name=str(tmp_path), max_train_samples=n) for n in (12, 12, 1000))
    assert few.train_labels.bincount().tolist() == [4, 4, 4]
    assert (few.train.images[:, 0, 0, 0] // 30).tolist() == few.train_labels.tolist()
    assert few.train.images.equal(again.train.images)
    assert few.validation.images.equal(all_of_them.validation.images)
    assert few.told[0] == "3 classes: ant 4, bee 4, cat 4"
    assert [row // 30 for row in rows_of_text(few.origin.train_rows)] == few.train_labels.tolist()


def test_held_out_images_are_cropped_in_the_middle(wide_folder):
    images = load(dataset_name=wide_folder, validation_split="test")
    assert images.resolution == 8
    assert images.validation.images[:, 1, :, 0].eq(2).all()
    assert set(images.train.images[:, 1, 0, 0].tolist()) == {0, 1, 2, 3, 4}
    centred = load(dataset_name=wide_folder, validation_split="test", center_crop=True)
    assert centred.train.images[:, 1, :, 0].eq(2).all()


def test_flags_come_before_the_model_and_the_model_before_the_image(wide_folder):
    by_model = load(1, 6, dataset_name=wide_folder)
    assert by_model.train.images.shape == (36, 1, 6, 6)
    by_flag = load(1, 6, dataset_name=wide_folder, resolution=4)
    assert (by_flag.channels, by_flag.resolution) == (1, 4)
    assert by_flag.train.images.shape == (36, 1, 4, 4)
    by_image = load(dataset_name=wide_folder)
    assert by_image.train.images.shape == (36, 3, 8, 8)


def test_mistakes_are_named(wide_folder):
    with pytest.raises(HfgenError, match="image_column='pixels' is not in the dataset"):
        load(dataset_name=wide_folder, image_column="pixels")
    with pytest.raises(HfgenError, match="label_column='class' is not in the dataset"):
        load(dataset_name=wide_folder, label_column="class")
    with pytest.raises(HfgenError, match="train_split='training' is not in the dataset: it has train, test"):
        load(dataset_name=wide_folder, train_split="training")


@pytest.mark.parametrize(("split", "told"), [("train", "training"), ("test", "held-out")])
def test_images_without_a_class_are_refused_where_a_network_is_told_classes(split, told):
    """-1 is how `datasets` writes that there is none, as many test splits have it."""
    labels = {"train": [0, 1] * 10, "test": [1, 0]}
    labels[split][1] = -1
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    source = DatasetDict(
        {
            name: Dataset.from_dict(
                {"image": [np.full((8, 8), i, np.uint8) for i in range(len(own))], "label": own}, features=features
            )
            for name, own in labels.items()
        }
    )
    data = DataConfig(dataset=source, validation_split="test")
    accelerator = Accelerator(cpu=True)
    images = load_training_set(data, channels=None, resolution=None, seed=0, accelerator=accelerator)
    with pytest.raises(HfgenError, match=f"class_conditional: 1 of the {told} images have no class"):
        images.told_classes()
