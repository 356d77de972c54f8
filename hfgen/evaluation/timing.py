"""How long a sample takes."""

from __future__ import annotations

from argparse import Namespace
from statistics import median

from hfgen.evaluation.samples import Draws


def seconds_per_sample(pipeline, flags: Namespace, batch: int, repeat: int) -> float:
    """The median over `repeat` draws of `batch` images at once, after one that does not count, in seconds per image."""
    draws = Draws(
        pipeline,
        batch,
        flags.steps,
        flags.scheduler,
        flags.seed,
        batch,
        flags.sample_pixels,
        flags.guidance_scale,
        compile=flags.compile,
        eta=flags.eta,
    )
    times = [draws.images()[1] for _ in range(repeat + 1)]
    return median(times[1:]) / batch
