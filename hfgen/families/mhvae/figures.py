"""Pictures of what each layer of a hierarchical VAE has learnt."""

from __future__ import annotations

from pathlib import Path

import torch

from hfgen.core.random import Stream, seeded
from hfgen.data.evaluation_images import EvaluationImages
from hfgen.families.vae.figures import pairs, pixels_of, samples_of, save_grid, save_scatter, some_images
from hfgen.pipelines import MHVAEPipeline

COLUMNS = 10
DRAWS = 3
WALKS, STEPS = 3, 12


def save_mhvae_figures(pipeline: MHVAEPipeline, data: EvaluationImages, out: Path, seed: int) -> list[Path]:
    """Write all figures that the model and the data admit into the folder `out`; returns their paths.

    samples.png, reconstructions.png (image and reconstruction from z_1, in pairs of rows), layers.png (what is kept from each
    layer on, the layers below drawn anew), interpolations.png (walks in each layer), latents.png (means of the last layer).
    """
    top = pipeline.num_layers
    written = [
        save_grid(out / "samples.png", samples_of(pipeline, seed)),
        save_grid(out / "reconstructions.png", pairs(pipeline, data), columns=min(COLUMNS, len(data.images))),
        save_grid(out / "layers.png", kept_by_layer(pipeline, data, seed), columns=min(COLUMNS, len(data.images))),
        save_scatter(out / "latents.png", data, lambda pixels: pipeline.encode(pixels, top).mean),
    ]
    if len(data.images) > 1:
        written.append(save_grid(out / "interpolations.png", _walks(pipeline, data), columns=STEPS))
    return written


def kept_by_layer(pipeline: MHVAEPipeline, data: EvaluationImages, seed: int) -> torch.Tensor:
    """A row of images; below it for each layer, from z_1 on, rows of draws that have it and the layers above in common.

    uint8 (N, C, H, W). Of z_1 there is one row, as nothing is drawn but pixels, whose means are shown.
    """
    images = some_images(data, COLUMNS)
    generator = seeded(pipeline.device, seed, Stream.SAMPLES)
    rows = [images.cpu()]
    for layer in range(1, pipeline.num_layers + 1):
        for _ in range(1 if layer == 1 else DRAWS):
            rows.append(pixels_of(pipeline.reconstruct(images, layer, draws=generator, output_type="pt")))
    return torch.cat(rows)


def _walks(pipeline, data):
    images = some_images(data, 2 * WALKS)
    half = len(images) // 2
    ends = images[:half], images[half : 2 * half]
    layers = range(1, pipeline.num_layers + 1)
    return torch.cat([pixels_of(pipeline.interpolate(*ends, STEPS, layer, output_type="pt")) for layer in layers])
