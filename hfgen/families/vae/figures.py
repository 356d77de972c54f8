"""Pictures of what a VAE has learnt."""

from __future__ import annotations

from pathlib import Path

import torch
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
        _save_grid(out / "samples.png", _samples(pipeline, seed)),
        _save_grid(out / "reconstructions.png", _pairs(pipeline, data), columns=min(COLUMNS, len(data.images))),
        _save_scatter(out / "latents.png", pipeline, data),
    ]
    if len(data.images) > 1:
        written.append(_save_grid(out / "interpolations.png", _walks(pipeline, data), columns=STEPS))
    if pipeline.vae.config.latent_size == 2:
        grid = _pixels(pipeline.manifold(MANIFOLD, output_type="pt"))
        written.append(_save_grid(out / "manifold.png", grid, columns=MANIFOLD, scale=1 if grid.shape[-1] >= 28 else 4))
    return written


def _samples(pipeline, seed):
    return _pixels(pipeline(64, seeded(pipeline.device, seed, Stream.SAMPLES), output_type="pt"))


def _pairs(pipeline, data):
    """Rows of images, each followed by the row of their reconstructions."""
    images = _first(data, PAIRS)
    reconstructed = _pixels(pipeline.reconstruct(images, output_type="pt"))
    rows = zip(images.cpu().split(COLUMNS), reconstructed.split(COLUMNS), strict=True)
    return torch.cat([part for pair in rows for part in pair])


def _walks(pipeline, data):
    images = _first(data, 2 * WALKS)
    half = len(images) // 2
    return _pixels(pipeline.interpolate(images[:half], images[half : 2 * half], STEPS, output_type="pt"))


def _first(data, count):
    return next(data.images.batches([torch.arange(min(count, len(data.images)))]))


def _pixels(output):
    return unit_to_uint8(output.images).cpu()


def _save_grid(path: Path, images: torch.Tensor, columns: int | None = None, scale: int | None = None) -> Path:
    save_png(image_grid(images, columns, scale), path)
    return path


def _save_scatter(path: Path, pipeline: VAEPipeline, data: EvaluationImages) -> Path:
    rows = torch.arange(min(SCATTERED, len(data.images))).split(500)
    means = torch.cat([pipeline.encode(pixels).mean.cpu() for pixels in data.images.batches(rows)]).numpy()
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
        labels = data.labels[: len(means)].numpy()
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
