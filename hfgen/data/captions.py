"""Captions of images: a column of texts, or made of the names of their classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from datasets import Dataset, Value

from hfgen.configs.training import CaptionedData
from hfgen.core.errors import HfgenError

NAME = "{}"
TEMPLATE = "a picture of {}"
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True, kw_only=True)
class CaptionRule:
    """Where captions come from: one of the two is None.

    Attributes:
        column: of texts.
        template: of a class's caption, in which "{}" stands for its name in words.
    """

    column: str | None
    template: str | None

    def of_classes(self, names: Sequence[str]) -> list[str] | None:
        """The captions of classes by their names; None for captions that are a column's."""
        return None if self.template is None else [self.template.replace(NAME, in_words(name)) for name in names]

    def captions(self, dataset: Dataset, labels: torch.Tensor | None, names: Sequence[str]) -> list[str]:
        """Of all rows; `labels` are their classes, int64 (N,), places in `names`.

        Raises `HfgenError` for rows without a caption, and for a column that there is not.
        """
        if self.column is not None:
            return _texts(dataset, self.column)
        by_class = self.of_classes(names)
        if labels is None or by_class is None:
            raise HfgenError("these images have no classes to make captions of: name a column with --label_column")
        return [by_class[label] for label in labels.tolist()]


def in_words(name: str) -> str:
    """A class's name as a caption has it: a digit is spelt, "7" as "seven", and underscores are blanks."""
    return DIGITS[int(name)] if name in tuple("0123456789") else name.replace("_", " ")


def caption_rule(data: CaptionedData, dataset: Dataset, label_column: str | None) -> CaptionRule:
    """The rule of the flags; `HfgenError` for flags that exclude each other, and for images with neither captions nor classes."""
    column, template = data.caption_column, data.caption_template
    if column is not None and template is not None:
        raise HfgenError(
            f"caption_column={column!r} and caption_template={template!r} both say what the captions are: pass one of them"
        )
    if column is not None:
        _check_column(dataset, column)
        return CaptionRule(column=column, template=None)
    if template is not None and template.count(NAME) != 1:
        raise HfgenError(
            f"caption_template={template!r} needs one {NAME} where the class's name goes: such as 'a picture of {NAME}'"
        )
    if label_column is None:
        raise HfgenError(
            f"the images have neither captions nor classes to make them of, among the columns {', '.join(dataset.features)}: "
            "name one with --caption_column or --label_column"
        )
    return CaptionRule(column=None, template=template or TEMPLATE)


def _check_column(dataset: Dataset, column: str) -> None:
    feature = dataset.features.get(column)
    if feature is None:
        raise HfgenError(
            f"caption_column={column!r} is not in the dataset; its columns are {', '.join(dataset.features)}"
        )
    if not (isinstance(feature, Value) and feature.dtype in ("string", "large_string")):
        kind = feature.dtype if isinstance(feature, Value) else type(feature).__name__
        raise HfgenError(f"caption_column={column!r} holds {kind}: name a column of strings")


def _texts(dataset: Dataset, column: str) -> list[str]:
    _check_column(dataset, column)
    texts = dataset[column][:]
    missing = [row for row, text in enumerate(texts) if text is None or not text.strip()]
    if missing:
        raise HfgenError(
            f"caption_column={column!r} has no caption in {len(missing):,} of {len(texts):,} rows, the first of them row "
            f"{missing[0]}: fill them in or leave these rows out"
        )
    return texts
