"""What a bound is evaluated on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import torch

from hfgen.core.errors import HfgenError


class Images(Protocol):
    """8-bit images, such as `ImagesInMemory` or `ImagesStreamed`."""

    def __len__(self) -> int:
        """How many there are."""

    def batches(self, rows: Iterable[torch.Tensor], /) -> Iterator[torch.Tensor]:
        """For each int64 tensor of row numbers, the uint8 images (len(rows), C, H, W) on the device."""


def check_not_empty(images: Images) -> None:
    """`HfgenError` for no images."""
    if len(images) == 0:
        raise HfgenError("there are no images to evaluate: name a split that has some")
