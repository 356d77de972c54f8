"""What is told of samples of a number."""

from __future__ import annotations

import math

import torch


def standard_error(values: torch.Tensor) -> float:
    """Of the mean of values (N,); nan for a single one, which says nothing of it."""
    return values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
