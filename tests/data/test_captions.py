"""Captions of rows, and pictures to follow."""

import datasets
import numpy as np
import PIL.Image
import pytest
import torch

from hfgen.configs.training import CaptionedData, ControlledData
from hfgen.core.errors import HfgenError
from hfgen.data.captions import CaptionRule, caption_rule, in_words
from hfgen.data.companions import CompanionRules
from hfgen.data.conditions import ConditionRule, canny, condition_rule, low_resolution, skeleton, transformed
from hfgen.data.loading import ImagesInMemory


def rows(**columns):
    return datasets.Dataset.from_dict(columns)


def test_names_in_words():
    assert [in_words(name) for name in ("7", "0", "10", "fire_truck", "²")] == [
        "seven",
        "zero",
        "10",
        "fire truck",
        "²",
    ]


def test_captions_of_classes():
    rule = caption_rule(CaptionedData(caption_template="a handwritten {}!"), rows(label=[0]), "label")
    assert rule.captions(rows(label=[1, 0]), torch.tensor([1, 0]), ["3", "cat"]) == [
        "a handwritten cat!",
        "a handwritten three!",
    ]
    assert caption_rule(CaptionedData(), rows(label=[0]), "label").of_classes(["7"]) == ["a picture of seven"]


def test_captions_of_a_column():
    rule = caption_rule(CaptionedData(caption_column="text"), rows(text=["a", "b"]), "label")
    assert rule.captions(rows(text=["x", "y z"]), None, []) == ["x", "y z"]
    assert rule.of_classes(["7"]) is None


@pytest.mark.parametrize("texts", [["a", None, "b", " "], ["a", "", "b", None]])
def test_rows_without_a_caption_are_counted(texts):
    rule = CaptionRule(column="text", template=None)
    with pytest.raises(HfgenError, match="'text' has no caption in 2 of 4 rows, the first of them row 1: "):
        rule.captions(rows(text=texts), None, [])


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"caption_column": "text", "caption_template": "a {}"}, "both say what the captions are"),
        ({"caption_column": "words"}, "'words' is not in the dataset; its columns are text, number"),
        ({"caption_column": "number"}, "'number' holds int64: name a column of strings"),
        ({}, "neither captions nor classes to make them of, among the columns text, number"),
    ],
)
def test_flags_that_give_no_captions(flags, says):
    with pytest.raises(HfgenError, match=says):
        caption_rule(CaptionedData(**flags), rows(text=["a"], number=[1]), None)


@pytest.mark.parametrize("template", ["a digit", "{} {}", "{name}"])
def test_a_template_has_one_place_for_the_name(template):
    with pytest.raises(HfgenError, match=r"needs one \{\} where the class's name goes"):
        caption_rule(CaptionedData(caption_template=template), rows(label=[0]), "label")


# -- pictures to follow


def test_edges_of_a_square_lie_at_its_border():
    image = np.zeros((1, 32, 32), np.uint8)
    image[0, 8:24, 8:24] = 255
    found = canny(image)[0] > 0
    assert found.any()
    near = np.zeros((32, 32), bool)
    near[6:26, 6:26] = True
    near[10:22, 10:22] = False
    assert not (found & ~near).any()
    # each of the four sides is there, along nearly all of its length
    for side in (found[6:10].any(0), found[22:26].any(0), found[:, 6:10].any(1), found[:, 22:26].any(1)):
        assert side.sum() >= 14


def test_the_skeleton_of_a_bar_is_its_middle_line():
    image = np.zeros((1, 16, 16), np.uint8)
    image[0, 2:14, 6:9] = 200
    found = skeleton(image)[0] > 0
    assert found[4:12, 7].all()
    assert found.sum(1).max() == 1


def test_low_resolution_is_a_mean_of_squares():
    image = np.random.default_rng(0).integers(0, 256, (3, 8, 12), np.uint8)
    found = low_resolution(image)
    for channel, shown in zip(image, found, strict=True):
        small = channel.reshape(2, 4, 3, 4).astype(float).mean((1, 3))
        assert np.array_equal(shown, np.kron(small.round(), np.ones((4, 4))).astype(np.uint8))
    assert low_resolution(image[:, :, :10]).shape == (3, 8, 10)


def test_a_coloured_image_has_a_binary_map():
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for name in ("canny", "skeleton"):
        found = transformed(images, name)
        assert found.shape == (2, 1, 16, 16)
        assert set(found.unique().tolist()) <= {0, 255}


def test_pictures_of_a_column_and_of_the_images():
    images = [PIL.Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (10, 200)]
    dataset = datasets.Dataset.from_dict({"image": images, "edges": images[::-1], "x": [0, 1]})
    dataset = dataset.cast_column("image", datasets.Image()).cast_column("edges", datasets.Image())
    pixels = ImagesInMemory(torch.tensor([10, 200], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 1, 8, 8))
    column = ConditionRule(column="edges", transform=None)

    def read(undecoded, name):
        assert name == "edges"
        return ImagesInMemory(pixels.images.flip(0))

    found = CompanionRules(conditions=column).load(dataset, None, [], pixels, read)
    assert torch.equal(found.conditions.images, pixels.images.flip(0))
    made = CompanionRules(conditions=ConditionRule(column=None, transform="low_resolution"))
    found = made.load(dataset, None, [], pixels, read)
    assert torch.equal(found.conditions.images, pixels.images)
    assert torch.equal(found.some(torch.tensor([1])).conditions.images, pixels.images[1:])
    with pytest.raises(HfgenError, match="pass --condition canny, skeleton, low_resolution or --conditioning_column"):
        condition_rule(ControlledData(), dataset)
    with pytest.raises(
        HfgenError, match="conditioning_column='depth' is not in the dataset; its columns are image, edges, x"
    ):
        condition_rule(ControlledData(conditioning_column="depth"), dataset)
    with pytest.raises(HfgenError, match=r"^conditioning_column='x' holds no images"):
        condition_rule(ControlledData(conditioning_column="x"), dataset)
