"""Columns of classes: those of `datasets`, and of strings or integers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from datasets import ClassLabel, Dataset, Value

from hfgen.core.errors import HfgenError, one_line

SHOWN_CLASSES = 12


def find_label_column(dataset: Dataset, label_column: str | None) -> str | None:
    """`label_column`, or the first column of type `ClassLabel`, or None; `HfgenError` lists the columns there are."""
    if label_column is not None and label_column not in dataset.features:
        raise HfgenError(
            f"label_column={label_column!r} is not in the dataset; its columns are {', '.join(dataset.features)}"
        )
    if label_column is not None:
        return label_column
    return next((name for name, feature in dataset.features.items() if isinstance(feature, ClassLabel)), None)


def class_names(dataset: Dataset, column: str | None) -> list[str]:
    """Of a column of classes: their names where it has them, else its strings or integers in ascending order; none for no column.

    Raises `HfgenError` for a column of anything else.
    """
    if column is None:
        return []
    feature = dataset.features[column]
    if isinstance(feature, ClassLabel):
        return list(feature.names)
    return [str(value) for value in sorted(set(_values(dataset, column)))]


def class_labels(dataset: Dataset, column: str | None, names: Sequence[str]) -> torch.Tensor | None:
    """The places in `names` of the classes of all rows, int64 (N,); None where there is no such column.

    Raises `HfgenError` for a class that is not among them, a row without one, and a column of anything else than classes.
    """
    if column is None or column not in dataset.features:
        return None
    feature = dataset.features[column]
    own = _values(dataset, column)
    if isinstance(feature, ClassLabel):
        if list(feature.names) == list(names):
            return torch.tensor(own)
        own = feature.int2str(own)
    places = {name: place for place, name in enumerate(names)}
    unknown = sorted({str(value) for value in own} - places.keys())
    if unknown:
        raise HfgenError(
            f"label_column={column!r} has the class {one_line(unknown[0], 40)!r}, which is none of the model's or the training "
            f"images' {len(places)}: leave these rows out"
        )
    return torch.tensor([places[str(value)] for value in own], dtype=torch.int64)


def _values(dataset: Dataset, column: str) -> list:
    """The strings or integers of a column, of ClassLabel the numbers."""
    feature = dataset.features[column]
    kind = feature.dtype if isinstance(feature, (Value, ClassLabel)) else type(feature).__name__
    if not kind.startswith(("int", "uint", "bool", "string", "large_string")):
        raise HfgenError(
            f"label_column={column!r} holds {kind}: name a column of classes, that is of ClassLabel, strings or integers"
        )
    values = dataset[column][:]
    if None in values:
        raise HfgenError(
            f"label_column={column!r} has no class in row {values.index(None)}: fill it in or leave it out"
        )
    return values


def class_counts(labels: torch.Tensor, names: Sequence[str]) -> str:
    """How many rows each class has, in a line; of many classes the smallest and the largest."""
    counts = labels[labels >= 0].bincount(minlength=len(names)).tolist()
    if len(names) <= SHOWN_CLASSES:
        return f"{len(names)} classes: " + ", ".join(
            f"{name} {count:,}" for name, count in zip(names, counts, strict=False)
        )
    least, most = (counts.index(value) for value in (min(counts), max(counts)))
    return f"{len(names):,} classes, from {names[least]} {counts[least]:,} to {names[most]} {counts[most]:,}"
