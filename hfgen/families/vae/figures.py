"""Pictures of what a VAE has learnt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import ImagePipelineOutput
from sklearn.decomposition import PCA

from hfgen.core.media import image_grid, save_png, unit_to_uint8
from hfgen.core.plotting import new_figure, save_figure
from hfgen.core.random import Stream, seeded
from hfgen.data.evaluation_images import EvaluationImages
from hfgen.pipelines import VAEPipeline

PAIRS, COLUMNS = 40, 10
WALKS, STEPS = 8, 12
MANIFOLD = 20
SCATTERED = 10_000


def save_vae_figures(pipeline: VAEPipeline, data: EvaluationImages, out: Path, seed: int) -> list[Path]:
    """Write all figures that the model and the data admit into the folder `out`; returns their paths.

    samples.png, reconstructions.png (image and reconstruction, in pairs of rows), interpolations.png, latents.png (means
    of q(z|x) by label; the first two principal components of more than two), manifold.png (20x20, two latents only).
    """
    written = [
        save_grid(out / "samples.png", samples_of(pipeline, seed)),
        save_grid(out / "reconstructions.png", pairs(pipeline, data), columns=min(COLUMNS, len(data.images))),
        save_scatter(out / "latents.png", data, lambda pixels: pipeline.encode(pixels).mean),
    ]
    if len(data.images) > 1:
        written.append(save_grid(out / "interpolations.png", _walks(pipeline, data), columns=STEPS))
    if pipeline.vae.config.latent_size == 2:
        grid = pixels_of(pipeline.manifold(MANIFOLD, output_type="pt"))
        written.append(save_grid(out / "manifold.png", grid, columns=MANIFOLD, scale=1 if grid.shape[-1] >= 28 else 4))
    return written


def samples_of(pipeline: Any, seed: int) -> torch.Tensor:
    """64 means of p(x|z), z drawn from the model; uint8 (64, C, H, W)."""
    return pixels_of(pipeline(64, seeded(pipeline.device, seed, Stream.SAMPLES), output_type="pt"))


def pairs(pipeline: Any, data: EvaluationImages) -> torch.Tensor:
    """Rows of images, each followed by the row of their reconstructions; uint8 (N, C, H, W)."""
    images = some_images(data, PAIRS)
    reconstructed = pixels_of(pipeline.reconstruct(images, output_type="pt"))
    rows = zip(images.cpu().split(COLUMNS), reconstructed.split(COLUMNS), strict=True)
    return torch.cat([part for pair in rows for part in pair])


def _walks(pipeline, data):
    images = some_images(data, 2 * WALKS)
    half = len(images) // 2
    return pixels_of(pipeline.interpolate(images[:half], images[half : 2 * half], STEPS, output_type="pt"))


def some_images(data: EvaluationImages, count: int) -> torch.Tensor:
    """`count` images to show for all, or all that there are; uint8 (N, C, H, W)."""
    return next(data.images.batches([data.some(count)]))


def pixels_of(output: ImagePipelineOutput) -> torch.Tensor:
    """What a pipeline returns as "pt" as uint8 on the CPU."""
    return unit_to_uint8(output.images).cpu()


def save_grid(path: Path, images: torch.Tensor, columns: int | None = None, scale: int | None = None) -> Path:
    """Write images as a grid; returns the path."""
    save_png(image_grid(images, columns, scale), path)
    return path


def save_scatter(path: Path, data: EvaluationImages, means_of: Callable[[torch.Tensor], torch.Tensor]) -> Path:
    """Write a scatter of the means of q, which `means_of` makes of uint8 images, by class; returns the path."""
    rows = data.some(SCATTERED)
    means = torch.cat([means_of(pixels).cpu() for pixels in data.images.batches(rows.split(500))]).numpy()
    axis = "z_{}"
    if means.shape[1] > 2 and len(means) > 1:
        pca = PCA(2).fit(means)
        means, axis = pca.transform(means), "principal component {} of the means of q(z|x)"
    figure = new_figure(7, 6.4)
    axes = figure.subplots()
    y = means[:, 1] if means.shape[1] > 1 else torch.zeros(len(means)).numpy()
    size = 5 if len(means) > 2000 else 20
    if data.labels is None:
        axes.scatter(means[:, 0], y, s=size, alpha=0.5, linewidths=0)
    else:
        labels = data.labels[rows].numpy()
        for label, name in enumerate(data.class_names):
            chosen = labels == label
            axes.scatter(
                means[chosen, 0], y[chosen], s=size, alpha=0.5, linewidths=0, color=f"C{label % 10}", label=name
            )
        axes.legend(markerscale=(30 / size) ** 0.5, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set(xlabel=axis.format(1), ylabel=axis.format(2), aspect="equal")
    axes.grid(alpha=0.3)
    save_figure(figure, path)
    return path
