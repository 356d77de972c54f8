"""What belongs to images beside their classes: captions, and pictures that they are to follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from datasets import Dataset

from hfgen.configs.training import CaptionedData, ControlledData, DataConfig
from hfgen.data.captions import CaptionRule, caption_rule
from hfgen.data.conditions import ConditionRule, Conditions, all_conditions, condition_rule
from hfgen.data.decode import undecoded
from hfgen.data.loading import Rows
from hfgen.data.origin import Origin

Read = Callable[[Dataset, str], Rows]


@dataclass(frozen=True, kw_only=True)
class Companions:
    """Of images, row by row.

    Attributes:
        captions: in words what they show; None without.
        class_captions: those of the classes 0, 1, ..., where captions are made of classes.
        conditions: the pictures that they are to follow; None without.
    """

    captions: list[str] | None = None
    class_captions: list[str] | None = None
    conditions: Conditions | None = None

    def some(self, rows: torch.Tensor) -> Companions:
        """Those of some rows, int64."""
        captions, conditions = self.captions, self.conditions
        return replace(
            self,
            captions=None if captions is None else [captions[row] for row in rows.tolist()],
            conditions=None if conditions is None else replace(conditions, images=conditions.images[rows]),
        )


@dataclass(frozen=True, kw_only=True)
class CompanionRules:
    """Where they come from; a rule is None where there are no such ones."""

    captions: CaptionRule | None = None
    conditions: ConditionRule | None = None

    def origin(self) -> dict[str, str | None]:
        """As values of an `Origin`."""
        captions, conditions = self.captions, self.conditions
        return {
            "caption_column": captions and captions.column,
            "caption_template": captions and captions.template,
            "conditioning_column": conditions and conditions.column,
            "condition": conditions and conditions.transform,
        }

    def load(
        self, dataset: Dataset, labels: torch.Tensor | None, class_names: Sequence[str], images: Rows, read: Read
    ) -> Companions:
        """Those of all rows of a dataset, whose images are given; `read` decodes an undecoded column as these were.

        Raises `HfgenError` for rows without a caption, and for pictures that cannot be read or do not fit into memory.
        """
        captions, conditions = self.captions, self.conditions
        column = None if conditions is None else conditions.column

        def of_column() -> Rows:
            assert column is not None
            return read(undecoded(dataset, column), column)

        return Companions(
            captions=None if captions is None else captions.captions(dataset, labels, class_names),
            class_captions=None if captions is None else captions.of_classes(class_names),
            conditions=None if conditions is None else all_conditions(conditions, images, of_column),
        )


def companion_rules(data: DataConfig, dataset: Dataset, label_column: str | None) -> CompanionRules:
    """What the flags of a training ask for; errors as `caption_rule` and `condition_rule`."""
    return CompanionRules(
        captions=caption_rule(data, dataset, label_column) if isinstance(data, CaptionedData) else None,
        conditions=condition_rule(data, dataset) if isinstance(data, ControlledData) else None,
    )


def rules_of_origin(origin: Origin) -> CompanionRules:
    """Those of a training."""
    captions = (origin.caption_column, origin.caption_template)
    conditions = (origin.conditioning_column, origin.condition)
    return CompanionRules(
        captions=None if captions == (None, None) else CaptionRule(column=captions[0], template=captions[1]),
        conditions=None if conditions == (None, None) else ConditionRule(column=conditions[0], transform=conditions[1]),
    )
