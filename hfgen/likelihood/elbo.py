"""A VAE's bounds on log p(x), streamed over images and importance samples."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from tqdm.auto import tqdm

from hfgen.core.binarize import binarize
from hfgen.core.errors import HfgenError
from hfgen.core.media import to_model_range
from hfgen.core.random import Stream, seeded
from hfgen.core.resume import SAVE_SECONDS, Resumable
from hfgen.likelihood.images import Images, check_not_empty

SAMPLES_AT_ONCE = 500
VALUES_AT_ONCE = {"cpu": 2**20, "cuda": 2**26}


class PixelLikelihood(Protocol):
    """p(x|z): how its pixels are binarised, "dynamic", "static" or not at all, and the decoder's outputs for each pixel value."""

    binarization: str | None

    @property
    def channels(self) -> int:
        """Outputs for each pixel value."""

    def log_prob(self, x: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """log p(x|z) in nats, (S, B), of images (B, C, H, W) by outputs (S, B, C * channels, H, W)."""


class DiagonalPosterior(Protocol):
    """q(z|x), a Gaussian with a diagonal covariance; its moments are (B, latent_size)."""

    mean: torch.Tensor
    std: torch.Tensor
    logvar: torch.Tensor

    def kl(self) -> torch.Tensor:
        """KL(q(z|x) || N(0, I)) in nats, (B,)."""


class Encoded(Protocol):
    """What encoders of diffusers return."""

    latent_dist: DiagonalPosterior


class VariationalAutoencoder(Protocol):
    """`MLPVAE`, `ConvVAE`, or what takes their place."""

    likelihood: PixelLikelihood

    def encode(self, x: torch.Tensor, /) -> Encoded:
        """q(z|x) of images (B, C, H, W) in [-1, 1]."""

    def decode_outputs(self, z: torch.Tensor, /) -> torch.Tensor:
        """What `likelihood` takes, from z (S, B, latent_size)."""


@dataclass(frozen=True)
class VAEBounds:
    """Means over images, in nats per image, with their standard errors.

    Attributes:
        num_samples: k, samples of q(z|x) for each image.
        values: float64 (N, 4) on the CPU, for each image the terms that `NAMES` lists.
    """

    num_samples: int
    values: torch.Tensor = field(repr=False)
    NAMES: ClassVar[tuple[str, ...]] = ("reconstruction", "kl", "negative_elbo", "negative_iw_bound")

    def mean(self, name: str) -> float:
        """Over images, of one of `NAMES`."""
        return self.values[:, self.NAMES.index(name)].mean().item()

    def standard_error(self, name: str) -> float:
        """Of the mean, over images; nan for a single image."""
        column = self.values[:, self.NAMES.index(name)]
        return (column.std() / math.sqrt(len(column))).item()


@torch.no_grad()
def vae_bounds(
    vae: VariationalAutoencoder,
    images: Images,
    *,
    num_samples: int = 5000,
    seed: int = 0,
    batch_size: int = 20,
    resumable: Resumable | None = None,
) -> VAEBounds:
    """The terms of the bound and the importance-weighted bound with k = `num_samples`.

    -log p(x) <= E[-log 1/k sum_l p(x, z_l) / q(z_l|x)] <= E_q[-log p(x|z)] + KL(q(z|x) || p(z)): the
    negative importance-weighted bound, and the negative ELBO with its KL in closed form and its first term as the mean
    over the same k samples. Pixels are binarised where the likelihood wants it, each image once. The noise of image i
    is a function of (seed, i) alone: neither `batch_size` nor the order of evaluation matters but for rounding. Memory
    grows with `batch_size`, not with the images or k.

    Args:
        vae: `MLPVAE` or `ConvVAE`, on the device of `images`.
        images: 8-bit, such as `ImagesInMemory` or `ImagesStreamed`.
        num_samples: k.
        seed: of the noise and of pixels that are binarised.
        batch_size: images at once.
        resumable: where to keep what is done.

    Raises `HfgenError` for no images, and for k, seed or batch_size out of range.

    Source: Burda et al. 2016, equations 8 and 10.
    """
    for name, value, least in (("num_samples", num_samples, 1), ("batch_size", batch_size, 1), ("seed", seed, 0)):
        if value < least:
            raise HfgenError(f"{name}={value}: use {least} or more")
    check_not_empty(images)
    resumable = resumable or Resumable(None)
    values = (resumable.load("vae") or {"values": torch.zeros(0, len(VAEBounds.NAMES), dtype=torch.float64)})["values"]
    rows: Sequence[torch.Tensor] = ()
    if len(values) < len(images):
        rows = torch.arange(len(values), len(images)).split(batch_size)
    saved_at = time.monotonic()
    with tqdm(total=len(images), initial=len(values), desc="evaluating", unit="image") as bar:
        for batch, pixels in zip(rows, images.batches(rows), strict=True):
            found = _batch_bounds(vae, to_model_range(pixels), batch, num_samples, seed).cpu()
            values = torch.cat([values, found])
            if time.monotonic() - saved_at > SAVE_SECONDS:
                resumable.save("vae", {"values": values})
                saved_at = time.monotonic()
            bar.update(len(batch))
    return VAEBounds(num_samples, values)


def _batch_bounds(
    vae: VariationalAutoencoder, x: torch.Tensor, rows: torch.Tensor, num_samples: int, seed: int
) -> torch.Tensor:
    """The four terms of each image, float64 (B, 4)."""
    generators = [seeded(x.device, seed, Stream.EVALUATION, int(row)) for row in rows]
    kind, uniform = vae.likelihood.binarization, x.new_empty(0)
    if kind == "dynamic":
        uniform = torch.stack([torch.rand(x[0].numel(), generator=g, device=x.device) for g in generators])
    x = binarize(kind, x, uniform, rows, (seed, Stream.EVALUATION))
    posterior = vae.encode(x).latent_dist
    log_weight = torch.full((len(x),), -math.inf, dtype=torch.float64, device=x.device)
    log_likelihood = torch.zeros_like(log_weight)
    for first in range(0, num_samples, SAMPLES_AT_ONCE):
        count = min(SAMPLES_AT_ONCE, num_samples - first)
        noise = torch.stack([_normal(g, posterior.mean, count) for g in generators], dim=1)
        log_p_x, log_ratio = _log_terms(vae, x, posterior, noise)
        log_likelihood += log_p_x.sum(0)
        log_weight = torch.logaddexp(log_weight, torch.logsumexp(log_p_x - log_ratio, 0))
    reconstruction, kl = -log_likelihood / num_samples, posterior.kl().double()
    return torch.stack([reconstruction, kl, reconstruction + kl, math.log(num_samples) - log_weight], dim=1)


def _normal(generator: torch.Generator, like: torch.Tensor, count: int) -> torch.Tensor:
    """(count, latent_size), the first of SAMPLES_AT_ONCE: another k then begins with the same samples."""
    size = (SAMPLES_AT_ONCE, like.shape[1])
    return torch.randn(size, generator=generator, device=like.device, dtype=like.dtype)[:count]


def _log_terms(
    vae: VariationalAutoencoder, x: torch.Tensor, posterior: DiagonalPosterior, noise: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """log p(x|z) and log q(z|x) - log p(z), float64 (S, B), at z = mean + std * noise, noise (S, B, latent_size)."""
    z = posterior.mean + posterior.std * noise
    values = x[0].numel() * vae.likelihood.channels * len(x)
    at_once = max(1, VALUES_AT_ONCE.get(x.device.type, 2**20) // values)
    log_p_x = torch.cat([vae.likelihood.log_prob(x, vae.decode_outputs(part)) for part in z.split(at_once)])
    log_ratio = 0.5 * (z.double().square() - noise.double().square() - posterior.logvar.double()).sum(-1)
    return log_p_x.double(), log_ratio
