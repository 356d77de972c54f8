"""Grids of labelled images."""

import numpy as np
import pytest
import torch

from hfgen.core.media import BACKGROUND, CELL, MOST_COLUMNS, MOST_LABELS, PADDING, labelled_grid

SIDE = CELL + PADDING


def flat(values, channels=1):
    """An image of one grey each."""
    return torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, channels, CELL, CELL).contiguous()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_each_label_has_its_row(channels):
    grid = labelled_grid(flat([10, 20, 30, 40, 50], channels), ["cat", "dog", "cat", "cat", "dog"])
    assert grid.mode == {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    pixels = np.asarray(grid.convert("L" if channels == 1 else "RGB"))
    pixels = pixels if channels == 1 else pixels[..., 0]
    margin = grid.width - (3 * SIDE + PADDING)
    assert grid.height == 2 * (SIDE + PADDING)
    middles = [
        [pixels[y, margin + x * SIDE + SIDE // 2] for x in range(3)] for y in (SIDE // 2, SIDE + PADDING + SIDE // 2)
    ]
    # where a label has fewer images the picture is white
    assert middles == [[10, 30, 40], [20, 50, 255]]
    assert pixels[0, margin] == BACKGROUND
    left = pixels[:, :margin]
    assert (left[: SIDE + PADDING].min(), left[SIDE + PADDING :].min()) == (0, 0)  # both rows have their word


def test_no_grid_is_too_large():
    few = labelled_grid(flat([1]), ["a" * 500])
    assert few.width < 400
    count = MOST_COLUMNS + 5
    assert labelled_grid(flat([1] * count), ["a"] * count).width < (MOST_COLUMNS + 1) * SIDE
    names = [str(i) for i in range(MOST_LABELS + 4)]
    assert labelled_grid(flat([1] * len(names)), names).height == MOST_LABELS * (SIDE + PADDING)
