"""How rows of data become what a model sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch

from hfgen.core.media import to_model_range
from hfgen.data.batch import RandomSpec


class Representation(Protocol):
    """What the training loop leaves to the data.

    Attributes:
        random: the numbers that `augment` takes, of training rows.
        drawn: the numbers that `prepare` takes, of held-out rows too.
        memory_format: in which the network's weights and the data lie.
        identity: what the rows depend on beside the images and the flags, as JSON values.
    """

    @property
    def random(self) -> RandomSpec:
        """By name, for each row."""

    @property
    def drawn(self) -> RandomSpec:
        """By name, for each row."""

    @property
    def memory_format(self) -> torch.memory_format:
        """Such as `torch.channels_last`."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """By name; of a checkpoint it must be the same to go on."""

    def prepare(self, raw: torch.Tensor, random: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Rows as the model sees them, (B, ...), from those that the data source gives."""

    def augment(self, data: torch.Tensor, random: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Prepared rows, changed as only training rows are."""


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """8-bit images, (B, C, H, W), as value / 127.5 - 1 in [-1, 1].

    Attributes:
        random_flip: mirror half of the training images left to right.
    """

    random_flip: bool = False
    # drawn also when nothing is mirrored: a flag that says so must not change any other number
    random: ClassVar[RandomSpec] = RandomSpec(uniform={"flip": ()})
    drawn: ClassVar[RandomSpec] = RandomSpec()
    memory_format: ClassVar[torch.memory_format] = torch.channels_last
    identity: ClassVar[Mapping[str, Any]] = {}

    def prepare(self, raw: torch.Tensor, random: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """To [-1, 1]."""
        return to_model_range(raw).contiguous(memory_format=self.memory_format)

    def augment(self, data: torch.Tensor, random: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Mirrored where `random["flip"]` is at least 1/2, if they are to be."""
        if not self.random_flip:
            return data
        return torch.where(random["flip"][:, None, None, None] < 0.5, data, data.flip(3))
