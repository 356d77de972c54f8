"""Which images come when, and with what noise: functions of the seed alone, whatever the number of processes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch

NOISE_BLOCK = 32


class Stream(IntEnum):
    """The uses of randomness that must not share numbers."""

    ORDER = 0
    TRAINING_NOISE = 1
    VALIDATION_NOISE = 2
    SAMPLES = 3
    EVALUATION = 4


def seeded(device: torch.device | str, *key: int) -> torch.Generator:
    """A generator seeded by all of `key` (non-negative integers) through numpy's SeedSequence."""
    state = np.random.SeedSequence(key).generate_state(2, np.uint32)
    return torch.Generator(device).manual_seed(int(state[0]) << 31 | int(state[1]) >> 1)


def epoch_order(seed: int, epoch: int, count: int) -> torch.Tensor:
    """The permutation of 0..count-1 in which an epoch visits the images."""
    return torch.randperm(count, generator=seeded("cpu", seed, Stream.ORDER, epoch))


@dataclass(frozen=True)
class RowNoise:
    """Noise for the rows of an optimizer step's whole batch, drawn in blocks of 32 rows seeded by (seed, step, block).

    Any process draws the rows it needs and no others, so that N processes, or N accumulated micro-batches, see the
    numbers that one process with the whole batch sees.
    """

    seed: int
    stream: Stream
    shape: tuple[int, ...]
    uniforms: int
    device: torch.device

    def draw(self, step: int, first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """For rows first..first+count-1: standard normal noise (count, *shape), uniforms on [0, 1) (count, uniforms)."""
        blocks = range(first // NOISE_BLOCK, (first + count - 1) // NOISE_BLOCK + 1)
        noise, uniform = zip(*(self._block(step, block) for block in blocks), strict=True)
        offset = first - blocks.start * NOISE_BLOCK
        rows = slice(offset, offset + count)
        return torch.cat(noise)[rows], torch.cat(uniform)[rows]

    def _block(self, step: int, block: int):
        generator = seeded(self.device, self.seed, self.stream, step, block)
        noise = torch.randn(NOISE_BLOCK, *self.shape, generator=generator, device=self.device)
        return noise, torch.rand(NOISE_BLOCK, self.uniforms, generator=generator, device=self.device)
