"""What a training step works on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True, kw_only=True)
class RandomSpec:
    """The random numbers that a step needs for each row, by name.

    Attributes:
        normal: shapes of standard normal numbers, (B, *shape).
        uniform: shapes of numbers on [0, 1), (B, *shape).
    """

    normal: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    uniform: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __or__(self, other: RandomSpec) -> RandomSpec:
        """Both, this one's numbers first."""
        return RandomSpec(normal={**self.normal, **other.normal}, uniform={**self.uniform, **other.uniform})


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows of data with what belongs to them.

    Attributes:
        data: as the model sees it, (B, ...), such as images (B, C, H, W) in [-1, 1].
        cond: what the model is told beside it, as keyword arguments of its call, such as class labels, int64 (B,).
        random: the numbers that the task's `RandomSpec` and the data's representation ask for, each (B, *shape), and
            "stratified", (B,): of the n rows of the step's whole batch row i has its number in [i / n, (i + 1) / n).
        rows: int64 (B,), on the CPU, the rows' numbers in their data.
        step: optimizer steps taken before this one.
    """

    data: torch.Tensor
    cond: Mapping[str, torch.Tensor]
    random: Mapping[str, torch.Tensor]
    rows: torch.Tensor
    step: int
