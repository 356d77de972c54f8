"""Columns of classes."""

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value

from hfgen.core.errors import HfgenError
from hfgen.data.labels import class_counts, class_labels, class_names


def column(values, feature):
    return Dataset.from_dict({"kind": values}, features=Features({"kind": feature}))


@pytest.mark.parametrize(
    ("values", "kind", "names", "labels"),
    [
        (["dog", "cat", "dog"], "string", ["cat", "dog"], [1, 0, 1]),
        ([10, 9, 10, 2], "int64", ["2", "9", "10"], [2, 1, 2, 0]),
        ([True, False], "bool", ["False", "True"], [1, 0]),
    ],
)
def test_strings_and_integers_become_classes(values, kind, names, labels):
    dataset = column(values, Value(kind))
    assert class_names(dataset, "kind") == names
    found = class_labels(dataset, "kind", names)
    assert (found.tolist(), found.dtype) == (labels, torch.int64)


def test_another_part_has_the_numbers_of_the_first():
    """The held-out images need not show every class."""
    for held_out in (column(["dog"], Value("string")), column([0], ClassLabel(names=["dog"]))):
        assert class_labels(held_out, "kind", ["cat", "dog"]).tolist() == [1]
    with pytest.raises(HfgenError, match=r"has the class 'eel', which is none of .* 2: leave these rows out"):
        class_labels(column(["eel"], Value("string")), "kind", ["cat", "dog"])


def test_no_column_of_classes():
    dataset = column(["a"], Value("string"))
    assert class_names(dataset, None) == []
    assert class_labels(dataset, None, []) is None
    assert class_labels(dataset, "other", ["a"]) is None


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ([0.5], Value("float32"), "holds float32: name a column of classes"),
        (["a", None], Value("string"), "no class in row 1"),
        ([0, None], ClassLabel(names=["a"]), "no class in row 1"),
    ],
)
def test_columns_that_hold_no_classes(values, kind, message):
    with pytest.raises(HfgenError, match=message):
        class_labels(column(values, kind), "kind", class_names(column(values, kind), "kind") or ["a"])


def test_counts_of_classes():
    assert class_counts(torch.tensor([0, 0, 2]), ["ant", "bee", "cat"]) == "3 classes: ant 2, bee 0, cat 1"
    many = torch.arange(1000) % 100
    assert class_counts(torch.cat([many, torch.tensor([7])]), list(map(str, range(100)))) == (
        "100 classes, from 0 10 to 7 11"
    )
