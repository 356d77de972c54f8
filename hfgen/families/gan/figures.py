"""Pictures of a GAN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from hfgen.core.media import grid_of_classes, image_grid, save_png, unit_to_uint8
from hfgen.core.random import Stream, seeded
from hfgen.drawing.draw import draw_samples
from hfgen.families.base import PREVIEWS, Family

WALKS, STEPS = 6, 12


def save_gan_figures(family: Family, pipeline: Any, out: Path, seed: int) -> list[Path]:
    """Write samples.png and walks.png into the folder `out`; returns their paths."""
    sampler = family.sampler(pipeline, family.sampling_options())
    samples = draw_samples(sampler, device=pipeline.device, num_images=PREVIEWS, seed=seed)
    labels = sampler.labels(PREVIEWS)
    written = [out / "samples.png", out / "walks.png"]
    save_png(
        grid_of_classes(samples.images, sampler.class_names, None if labels is None else labels.tolist()), written[0]
    )
    save_png(image_grid(walks(pipeline, seed), columns=STEPS), written[1])
    return written


def walks(pipeline: Any, seed: int) -> torch.Tensor:
    """Rows of images along arcs between two draws of z, each of one class; uint8 (WALKS * STEPS, C, H, W)."""
    size = pipeline.generator.config.latent_size
    # of the CPU, whatever the device: that is where all have a generator
    ends = torch.randn(2, WALKS, 1, size, generator=seeded("cpu", seed, Stream.SAMPLES))
    angle = torch.linspace(0, torch.pi / 2, STEPS)[None, :, None]
    z = (angle.cos() * ends[0] + angle.sin() * ends[1]).flatten(0, 1)
    names = pipeline.class_names
    labels = [row % len(names) for row in range(WALKS) for _ in range(STEPS)] if names else None
    return unit_to_uint8(pipeline(class_labels=labels, latents=z, output_type="pt").images).cpu()
