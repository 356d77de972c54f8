"""Words that the cards of several families share."""

from __future__ import annotations

from collections.abc import Sequence

import torch

# on the card of a repository with a pipeline and a model of hfgen, before code that loads it
OWN_CODE = """The pipeline's and the model's code lie in the repository; `trust_remote_code=True` runs it. Read it first: it is two files. A
`revision="..."` (a commit) beside it pins what you have read.
"""
COLOURS = {1: "grey", 3: "RGB"}


def parameter_words(module: torch.nn.Module) -> str:
    """Such as "707,481 parameters"."""
    return f"{sum(p.numel() for p in module.parameters()):,} parameters"


def image_words(channels: int, size: int | Sequence[int]) -> str:
    """Such as "28x28 grey images"; `size` is a side, or (H, W)."""
    height, width = (size, size) if isinstance(size, int) else size
    return f"{height}x{width} {COLOURS.get(channels, f'{channels}-channel')} images"
