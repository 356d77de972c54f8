"""What a bound is evaluated on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import torch

from hfgen.core.errors import HfgenError
from hfgen.core.media import to_model_range


class Images(Protocol):
    """8-bit images, such as `ImagesInMemory` or `ImagesStreamed`."""

    def __len__(self) -> int:
        """How many there are."""

    def batches(self, rows: Iterable[torch.Tensor], /) -> Iterator[torch.Tensor]:
        """For each int64 tensor of row numbers, the uint8 images (len(rows), C, H, W) on the device."""


def as_model_sees(rows: torch.Tensor) -> torch.Tensor:
    """8-bit images on [-1, 1]; what is no 8-bit image, such as latents, as it is."""
    return to_model_range(rows) if rows.dtype == torch.uint8 else rows


def check_not_empty(images: Images) -> None:
    """`HfgenError` for no images."""
    if len(images) == 0:
        raise HfgenError("there are no images to evaluate: name a split that has some")
