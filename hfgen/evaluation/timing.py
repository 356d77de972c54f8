"""How long a sample takes."""

from __future__ import annotations

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
