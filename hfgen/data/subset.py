"""Fewer rows than there are, and row numbers as text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from hfgen.core.random import Stream, seeded


def draw_rows(count: int, total: int, labels: torch.Tensor | None = None, *, seed: int) -> torch.Tensor:
    """`count` of `total` rows without replacement, int64 in ascending order; all of them if there are no more.

    With `labels`, (total,), each class has its share, rounded so that they sum up (Hamilton's method).
    """
    if count >= total:
        return torch.arange(total)
    order = torch.randperm(total, generator=seeded("cpu", seed, Stream.SUBSET))
    if labels is None:
        return order[:count].sort().values
    _, classes, sizes = labels.unique(return_inverse=True, return_counts=True)
    classes = classes[order]
    return order[_rank_in_class(classes, sizes) < _shares(count, sizes)[classes]].sort().values


def _rank_in_class(classes: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """How many rows of the same class come before each."""
    by_class = classes.argsort(stable=True)
    ranks = torch.empty_like(classes)
    ranks[by_class] = torch.arange(len(classes)) - (sizes.cumsum(0) - sizes)[classes[by_class]]
    return ranks


def _shares(count: int, sizes: torch.Tensor) -> torch.Tensor:
    """Numbers in proportion to `sizes` that sum to `count`."""
    total = int(sizes.sum())
    shares = count * sizes // total
    rest = (count * sizes % total).argsort(descending=True, stable=True)
    shares[rest[: count - int(shares.sum())]] += 1
    return shares


def rows_text(rows: Iterable[int]) -> str:
    """Row numbers in their order, such as "7 0-3 12"."""
    numbers = np.fromiter(rows, np.int64)
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1) if len(numbers) else []
    return " ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def rows_of_text(text: str) -> list[int]:
    """What `rows_text` was given; `ValueError` for another text."""
    return list(_numbers(text))


def _numbers(text: str) -> Iterator[int]:
    for run in text.split():
        first, _, last = run.partition("-")
        yield from range(int(first), int(last or first) + 1)
