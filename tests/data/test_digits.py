"""The embedded digits are scikit-learn's, row by row."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from hfgen.data.digits import embedded_digits


@pytest.fixture(scope="module")
def splits():
    return embedded_digits()


@pytest.fixture(scope="module")
def pixels(splits):
    return {name: np.stack([np.asarray(image) for image in split["image"]]) for name, split in splits.items()}


def test_splits_hold_all_images(splits):
    assert {name: len(split) for name, split in splits.items()} == {"train": 1500, "test": 297}
    assert splits["train"][0]["image"].mode == "L"


def test_images_and_labels_are_those_of_the_source_in_its_order(splits, pixels):
    source = load_digits()
    images = np.concatenate([pixels["train"], pixels["test"]])
    assert images.dtype == np.uint8
    assert images.shape == (1797, 8, 8)
    assert np.array_equal(np.rint(images * (16 / 255)), source.images)
    assert [*splits["train"]["label"], *splits["test"]["label"]] == source.target.tolist()


def test_grey_levels_are_spread_over_a_byte(pixels):
    # 16 * 255 / 16 = 255; a level v becomes 15.9375 v, rounded
    assert np.unique(pixels["train"]).tolist() == [round(v * 15.9375) for v in range(17)]


def test_no_image_is_in_both_splits(pixels):
    train, test = ({image.tobytes() for image in pixels[name]} for name in ("train", "test"))
    assert len(train) == 1500
    assert len(test) == 297
    assert not train & test
