"""Fewer rows: drawn, in proportion, the same again."""

from collections import Counter
from fractions import Fraction

import pytest
import torch

from hfgen.data.subset import draw_rows, rows_of_text, rows_text


@pytest.mark.parametrize("labels", [None, torch.arange(10) % 3])
def test_rows_are_drawn_without_replacement_in_ascending_order(labels):
    rows = draw_rows(4, 10, labels, seed=0)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert len(rows) == 4
    assert draw_rows(4, 10, labels, seed=0).equal(rows)
    assert any(not draw_rows(4, 10, labels, seed=seed).equal(rows) for seed in range(1, 4))
    for count in (10, 11):
        assert draw_rows(count, 10, labels, seed=0).tolist() == list(range(10))


def test_each_row_is_as_likely_as_another():
    """Of 4,000 draws of 3 of 9 each row is in a third, with a standard deviation of 30."""
    drawn = Counter(row for seed in range(4000) for row in draw_rows(3, 9, seed=seed).tolist())
    assert all(abs(drawn[row] - 4000 / 3) < 5 * 30 for row in range(9))


@pytest.mark.parametrize("count", [1, 2, 7, 90, 100, 149])
def test_classes_have_their_share(count):
    """The rows lie in the order of their classes, as in a folder of folders; by exact fractions each share is off by less than one."""
    sizes = {5: 70, -1: 50, 2: 29, 7: 1}
    labels = torch.tensor([label for label, size in sizes.items() for _ in range(size)])
    chosen = Counter(labels[draw_rows(count, 150, labels, seed=3)].tolist())
    assert chosen.total() == count
    assert all(abs(chosen[label] - Fraction(count * size, 150)) < 1 for label, size in sizes.items())


@pytest.mark.parametrize(("rows", "text"), [([7, 0, 1, 2, 3, 12], "7 0-3 12"), ([], ""), ([5], "5"), ([2, 1], "2 1")])
def test_row_numbers_as_text(rows, text):
    assert rows_text(rows) == text
    assert rows_of_text(text) == rows


def test_row_numbers_that_are_none():
    with pytest.raises(ValueError, match="invalid literal"):
        rows_of_text("1 x")
