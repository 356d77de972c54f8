"""How long a sample takes, and how often its network is asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch

from hfgen.drawing.draw import draw_samples
from hfgen.drawing.sampler import Sampler


def seconds_per_sample(sampler: Sampler, device: torch.device, seed: int, batch: int, repeat: int) -> float:
    """The median over `repeat` draws of `batch` images at once, after one that does not count, in seconds per image."""
    times = [
        draw_samples(sampler, device=device, num_images=batch, seed=seed, batch_size=batch).seconds
        for _ in range(repeat + 1)
    ]
    return median(times[1:]) / batch


@dataclass
class Evaluations:
    """Rows that have gone through a network."""

    rows: int = 0

    def per_sample(self, samples: int) -> float:
        """Of each of so many samples; a network that is asked otherwise than as a whole, such as a decoder, is asked once."""
        return self.rows / samples if self.rows else 1.0


@contextmanager
def evaluations_of(network: torch.nn.Module) -> Iterator[Evaluations]:
    """Counts what goes through the network inside the block."""
    counted = Evaluations()

    def count(_: torch.nn.Module, places: tuple, words: dict) -> None:
        given = (*places, *words.values())
        counted.rows += next((len(value) for value in given if isinstance(value, torch.Tensor) and value.ndim), 1)

    handle = network.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield counted
    finally:
        handle.remove()
