"""How well an autoencoder reconstructs images, and its bound on their likelihood."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torchmetrics.functional.image import structural_similarity_index_measure
from tqdm.auto import tqdm

from hfgen.core.errors import HfgenError
from hfgen.core.media import to_model_range, to_uint8
from hfgen.core.processes import is_first, shared
from hfgen.core.random import Stream, seeded
from hfgen.core.statistics import standard_error
from hfgen.data.evaluation_images import EvaluationImages
from hfgen.data.latents import decoded, factor, latent_shape, moments, scaled
from hfgen.families.autoencoder.likelihood import NAME, QUANTITY, PixelLikelihood, likelihood_of
from hfgen.families.base import LikelihoodSettings
from hfgen.objectives.autoencoder import gaussian_kl
from hfgen.results import LikelihoodResult, Metric

BATCH = 100
RECONSTRUCTION = "reconstruction of images, no likelihood"
PEAK = 255.0
# of its Gaussian window, in pixels; of small images a part of their side
SSIM_SIGMA, SSIM_SHARE = 1.5, 0.1
NAMES = {
    "negative_elbo": "-ELBO with p(z) = N(0, I) (upper bound on the NLL)",
    "reconstruction": "reconstruction, -E log p(x|z)",
    "kl": "KL(q(z|x) || N(0, I))",
}


def measure(vae: Any, data: EvaluationImages, settings: LikelihoodSettings) -> LikelihoodResult:
    """PSNR and SSIM of reconstructions by the means, each with that of images shrunk by the same factor and enlarged again; where it
    has a likelihood of 8-bit pixels its bound.

    Raises `HfgenError` for images that it does not take, and for no images.
    """
    start, likelihood = time.perf_counter(), likelihood_of(vae)
    count = len(data.images)
    if count == 0:
        raise HfgenError("there are no images to evaluate: name a split that has some")
    rows = torch.arange(count).split(settings.batch_size or BATCH)

    def found(own: Sequence[torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
        for part, pixels in zip(own, data.images.batches(own), strict=True):
            values = dict(_quality(vae, pixels))
            if likelihood is not None:
                values |= bound_terms(vae, likelihood, pixels, part, settings.seed)
            yield {name: value.double().cpu() for name, value in values.items()}

    parts = []
    with tqdm(total=count, desc="reconstructions", unit="image", disable=not is_first()) as bar:
        for part, values in shared(rows, found):
            parts.append(values)
            bar.update(len(part))
    terms = {name: torch.cat([values[name] for values in parts]) for name in parts[0]}
    shape = next(data.images.batches([rows[0]])).shape[1:]
    return LikelihoodResult(
        quantity=RECONSTRUCTION if likelihood is None else QUANTITY,
        likelihood="absolute error" if likelihood is None else NAME,
        how="one z an image",
        facts={
            "factor": factor(vae),
            "latents": list(latent_shape(vae, shape)),
        },
        metrics=_quality_metrics(terms, factor(vae)) | _bound_metrics(terms, math.prod(shape)),
        seconds=time.perf_counter() - start,
    )


def reconstruct(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """uint8 reconstructions by the means of z, of uint8 pixels (B, C, H, W)."""
    mean, _ = moments(vae, pixels).chunk(2, dim=1)
    return to_uint8(decoded(scaled(mean, vae), vae))


@torch.no_grad()
def bound_terms(
    vae: Any, likelihood: PixelLikelihood, pixels: torch.Tensor, rows: torch.Tensor, seed: int
) -> dict[str, torch.Tensor]:
    """-log p(x|z) and the KL of the scaled z to N(0, I), each of an image, in nats, (B,); the noise of row i is that of (seed, i)."""
    z, mean, spread = draw(vae, pixels, rows, seed)
    return {
        "reconstruction": likelihood.nats(to_model_range(pixels), decoded(z, vae)),
        "kl": gaussian_kl(mean, 2 * spread.log()),
    }


def draw(
    vae: Any, pixels: torch.Tensor, rows: torch.Tensor, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A scaled z of each image, and the mean and standard deviation of the scaled q, (B, c, h, w)."""
    mean, spread = moments(vae, pixels).chunk(2, dim=1)
    mean, spread = scaled(mean, vae), spread * vae.config.scaling_factor
    shape = mean.shape[1:]
    noise = [torch.randn(shape, generator=seeded("cpu", seed, Stream.EVALUATION, int(row), 2)) for row in rows]
    return mean + spread * torch.stack(noise).to(mean.device), mean, spread


def _quality(vae: Any, pixels: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    small = F.interpolate(pixels.float(), scale_factor=1 / factor(vae), mode="area")
    shrunk = F.interpolate(small, pixels.shape[-2:], mode="bicubic").round().clamp(0, PEAK)
    for suffix, made in (("", reconstruct(vae, pixels).float()), ("_floor", shrunk)):
        yield f"psnr{suffix}", psnr(made, pixels.float())
        yield f"ssim{suffix}", ssim(made, pixels.float())


def psnr(made: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio of each image in dB, (B,), of 0..255; of equal ones that of one wrong level of one pixel."""
    square = (made - images).square().flatten(1).mean(1)
    return 10 * torch.log10(PEAK**2 / square.clamp(min=1 / images[0].numel()))


def ssim(made: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Structural similarity of each image, (B,), of 0..255. Source: Wang et al. 2004, by torchmetrics."""
    sigma = min(SSIM_SIGMA, SSIM_SHARE * min(images.shape[-2:]))
    return structural_similarity_index_measure(made, images, sigma=sigma, reduction="none", data_range=PEAK)


def _quality_metrics(terms: dict[str, torch.Tensor], times: int) -> dict[str, Metric]:
    floor = f", floor: shrunk {times} times and enlarged"
    return {
        f"{key}{suffix}": _metric(f"{name}{words}", terms[f"{key}{suffix}"], unit)
        for key, name, unit in (("psnr", "PSNR of reconstructions", "dB"), ("ssim", "SSIM of reconstructions", ""))
        for suffix, words in (("", ""), ("_floor", floor))
    }


def _bound_metrics(terms: dict[str, torch.Tensor], dimensions: int) -> dict[str, Metric]:
    if "kl" not in terms:
        return {}
    terms = {**terms, "negative_elbo": terms["reconstruction"] + terms["kl"]}
    bits, metrics = 1 / (dimensions * math.log(2)), {}
    for key, name in NAMES.items():
        role = "bound" if key == "negative_elbo" else None
        metrics[f"{key}_bits_per_dim"] = _metric(name, terms[key] * bits, "bits/dim", role)
        metrics[key] = _metric(name, terms[key], "nats/image", role)
    return metrics


def _metric(name: str, values: torch.Tensor, unit: str, role: str | None = None) -> Metric:
    return Metric(name=name, mean=values.mean().item(), standard_error=standard_error(values), unit=unit, role=role)
