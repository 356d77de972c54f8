"""Random numbers and orders as functions of a seed and a place alone, whatever the number of processes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import torch

BLOCK = 32
Shapes = Mapping[str, tuple[int, ...]]


class Stream(IntEnum):
    """The uses of randomness that must not share numbers."""

    ORDER = 0
    TRAINING_NOISE = 1
    VALIDATION_NOISE = 2
    SAMPLES = 3
    EVALUATION = 4
    SUBSET = 5
    SHARDS = 6
    SHUFFLE_BUFFER = 7


def seeded(device: torch.device | str, *key: int) -> torch.Generator:
    """A generator seeded by all of `key` (non-negative integers) through numpy's SeedSequence."""
    state = np.random.SeedSequence(key).generate_state(2, np.uint32)
    return torch.Generator(device).manual_seed(int(state[0]) << 31 | int(state[1]) >> 1)


def epoch_order(seed: int, epoch: int, count: int) -> torch.Tensor:
    """The permutation of 0..count-1 in which an epoch visits the images."""
    return torch.randperm(count, generator=seeded("cpu", seed, Stream.ORDER, epoch))


@dataclass(frozen=True, kw_only=True)
class RowRandom:
    """Random numbers for the rows of a step's whole batch, drawn in blocks of 32 rows seeded by (seed, stream, step, block).

    Any process draws the rows it needs and no others, so that N processes, or N accumulated micro-batches, see the
    numbers that one process with the whole batch sees. They are written where those of the step before were, so that a
    captured graph can be replayed on them.

    Attributes:
        seed, stream: non-negative integers.
        normal: shapes of a row's standard normal numbers, by name.
        uniform: shapes of a row's numbers on [0, 1), by name.
        rows: the most that are drawn at once.
    """

    seed: int
    stream: int
    normal: Shapes
    uniform: Shapes
    rows: int
    device: torch.device
    _normal: dict[str, torch.Tensor] = field(init=False, repr=False, compare=False)
    _uniform: torch.Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # rows that start anywhere in a block may reach into one block more
        count = BLOCK * ((self.rows + BLOCK - 2) // BLOCK + 1)
        normal = {name: torch.empty(count, *shape, device=self.device) for name, shape in self.normal.items()}
        total = sum(map(math.prod, self.uniform.values()))
        object.__setattr__(self, "_normal", normal)
        object.__setattr__(self, "_uniform", torch.empty(count, total, device=self.device))

    def draw(self, step: int, first: int, count: int) -> dict[str, torch.Tensor]:
        """The numbers of rows first..first+count-1 by name, (count, *shape) each; the next draw overwrites them."""
        blocks = range(first // BLOCK, (first + count - 1) // BLOCK + 1)
        for place, block in enumerate(blocks):
            generator = seeded(self.device, self.seed, self.stream, step, block)
            self._fill(slice(place * BLOCK, (place + 1) * BLOCK), generator)
        offset = first - blocks.start * BLOCK
        rows = slice(offset, offset + count)
        return {name: buffer[rows] for name, buffer in self._normal.items()} | self._columns(self._uniform[rows])

    def _fill(self, rows: slice, generator: torch.Generator) -> None:
        for buffer in self._normal.values():
            torch.randn(buffer[rows].shape, generator=generator, out=buffer[rows])
        torch.rand(self._uniform[rows].shape, generator=generator, out=self._uniform[rows])

    def _columns(self, uniform: torch.Tensor) -> dict[str, torch.Tensor]:
        """The columns of (count, total) by name, in the order of the names."""
        parts = uniform.split([math.prod(shape) for shape in self.uniform.values()], dim=1)
        return {
            name: part.unflatten(1, shape) if shape else part[:, 0]
            for (name, shape), part in zip(self.uniform.items(), parts, strict=True)
        }
