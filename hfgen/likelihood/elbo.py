"""Bounds on log p(x) of VAEs of one layer of latents or of a chain of them, streamed over images and importance samples."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from tqdm.auto import tqdm

from hfgen.core.binarize import binarize
from hfgen.core.errors import HfgenError
from hfgen.core.media import to_model_range
from hfgen.core.processes import is_first, shared
from hfgen.core.random import Stream, seeded
from hfgen.core.resume import SAVE_SECONDS, Resumable
from hfgen.core.statistics import standard_error
from hfgen.likelihood.images import Images, check_not_empty

SAMPLES_AT_ONCE = 500
ACTIVE = 0.01
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
    """q(z|x), a Gaussian with a diagonal covariance; its moments are (..., latent_size)."""

    mean: torch.Tensor
    std: torch.Tensor
    logvar: torch.Tensor

    def kl(self) -> torch.Tensor:
        """KL(q(z|x) || N(0, I)) in nats, (...)."""


class Encoded(Protocol):
    """What encoders of diffusers return."""

    latent_dist: DiagonalPosterior


class VariationalAutoencoder(Protocol):
    """`MLPVAE`, `ConvVAE`, or what takes their place.

    One with several layers of latents has `latent_sizes` too, and `posterior(t, z)`, which is q(z_t|z_{t-1}) of z_{t-1}
    (S, B, size), and `prior(t, z)`, p(z_t|z_{t+1}) of z_{t+1}: both have a mean, std and logvar.
    """

    likelihood: PixelLikelihood

    def encode(self, x: torch.Tensor, /) -> Encoded:
        """q(z_1|x) of images (B, C, H, W) in [-1, 1]."""

    def decode_outputs(self, z: torch.Tensor, /) -> torch.Tensor:
        """What `likelihood` takes, from z_1 (S, B, latent_size)."""


@dataclass(frozen=True)
class VAEBounds:
    """Means over images, in nats per image, with their standard errors.

    Attributes:
        num_samples: k, samples of q for each image.
        values: float64 (N, len(names)) on the CPU, for each image the terms that `names` lists.
        unit_variances: float64 (sum of the layers' sizes,), Var_x of E_q[mean of q] for each latent, layer by layer. Burda et al.
            2016, appendix C, call a unit active above 0.01. What the k samples add to it is taken off without bias; nan above
            the first layer where k = 1 leaves that unknown.
        latent_sizes: of each layer.
    """

    num_samples: int
    values: torch.Tensor = field(repr=False)
    unit_variances: torch.Tensor = field(repr=False)
    latent_sizes: tuple[int, ...]
    NAMES: ClassVar[tuple[str, ...]] = ("reconstruction", "kl", "negative_elbo", "negative_iw_bound")

    @property
    def names(self) -> tuple[str, ...]:
        """`NAMES`, and of several layers the KL of each, "kl_1" to "kl_T"; they sum to "kl"."""
        return *self.NAMES, *_layer_names(len(self.latent_sizes))

    def mean(self, name: str) -> float:
        """Over images, of one of `names`."""
        return self.values[:, self.names.index(name)].mean().item()

    def standard_error(self, name: str) -> float:
        """Of the mean, over images; nan for a single image."""
        return standard_error(self.values[:, self.names.index(name)])

    @property
    def active_units(self) -> tuple[int | None, ...]:
        """How many latents of each layer are active; None where that is not known."""
        parts = self.unit_variances.split(self.latent_sizes)
        return tuple(None if part.isnan().any() else int((part > ACTIVE).sum()) for part in parts)


def _layer_names(layers: int) -> tuple[str, ...]:
    return tuple(f"kl_{layer}" for layer in range(1, layers + 1)) if layers > 1 else ()


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

    -log p(x) <= E[-log 1/k sum_l p(x, z_l) / q(z_l|x)] <= E_q[-log p(x|z_1)] + KL(q(z|x) || p(z)): the
    negative importance-weighted bound, and the negative ELBO with its KL in closed form and its first term as the mean
    over the same k samples. Of a chain z is all layers; the KL of each is a mean over the samples too, with what of it has a
    closed form. Pixels are binarised where the likelihood wants it, each image once. The noise of image i
    is a function of (seed, i) alone: neither `batch_size` nor the order of evaluation matters but for rounding. Memory
    grows with `batch_size`, not with k, and with the images by a few numbers of each.

    Args:
        vae: a model of `hfgen.models`, on the device of `images`.
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
    resumable, sizes = resumable or Resumable(None), _latent_sizes(vae)
    columns = len(VAEBounds.NAMES) + len(_layer_names(len(sizes)))
    kept = resumable.load("bounds") or {
        "values": torch.zeros(0, columns, dtype=torch.float64),
        "units": torch.zeros(2, sum(sizes), dtype=torch.float64),
    }
    rows: Sequence[torch.Tensor] = ()
    if len(kept["values"]) < len(images):
        rows = torch.arange(len(kept["values"]), len(images)).split(batch_size)
    saved_at = time.monotonic()

    def found(own: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
        for batch, pixels in zip(own, images.batches(own), strict=True):
            yield [part.cpu() for part in _batch_bounds(vae, to_model_range(pixels), batch, num_samples, seed)]

    done, hidden = len(kept["values"]), not is_first()
    with tqdm(total=len(images), initial=done, desc="evaluating", unit="image", disable=hidden) as bar:
        for batch, (values, means, squares) in shared(rows, found):
            units = torch.stack([means.sum(0), squares.sum(0)])
            kept = {"values": torch.cat([kept["values"], values]), "units": kept["units"] + units}
            if time.monotonic() - saved_at > SAVE_SECONDS:
                resumable.save("bounds", kept)
                saved_at = time.monotonic()
            bar.update(len(batch))
    first, second = kept["units"] / len(images)
    return VAEBounds(num_samples, kept["values"], (second - first.square()).clamp(min=0), sizes)


def _latent_sizes(vae: Any) -> tuple[int, ...]:
    """Of each layer; a VAE has one."""
    return getattr(vae, "latent_sizes", None) or (vae.config.latent_size,)


def _batch_bounds(
    vae: VariationalAutoencoder, x: torch.Tensor, rows: torch.Tensor, num_samples: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The terms of each image, float64 (B, names), the means of q in its latents, float64 (B, sum of the sizes), and their squares."""
    generators = [seeded(x.device, seed, Stream.EVALUATION, int(row)) for row in rows]
    kind, uniform = vae.likelihood.binarization, x.new_empty(0)
    if kind == "dynamic":
        uniform = torch.stack([torch.rand(x[0].numel(), generator=g, device=x.device) for g in generators])
    x = binarize(kind, x, uniform, rows, (seed, Stream.EVALUATION))
    posterior, sizes = vae.encode(x).latent_dist, _latent_sizes(vae)
    log_weight = torch.full((len(x),), -math.inf, dtype=torch.float64, device=x.device)
    log_likelihood = torch.zeros_like(log_weight)
    kls, means = log_weight.new_zeros(len(sizes), len(x)), log_weight.new_zeros(len(x), sum(sizes))
    squares = torch.zeros_like(means)
    for first in range(0, num_samples, SAMPLES_AT_ONCE):
        count = min(SAMPLES_AT_ONCE, num_samples - first)
        noise = torch.stack([_normal(g, posterior.mean, count, sum(sizes)) for g in generators], dim=1)
        for part in _log_terms(vae, x, posterior, noise):
            log_likelihood += part.log_likelihood.sum(0)
            log_weight = torch.logaddexp(log_weight, torch.logsumexp(part.log_likelihood - part.log_ratio, 0))
            kls += part.kls.sum(1)
            means += part.means.sum(0)
            squares += part.means.square().sum(0)
    reconstruction, kls, means = -log_likelihood / num_samples, kls / num_samples, means / num_samples
    # of a mean over k samples of z the square is too large by their variance over k; that of z_1's mean, which has none, is exact
    above = squares[:, sizes[0] :] / num_samples - means[:, sizes[0] :].square()
    squares = means.square()
    squares[:, sizes[0] :] -= above / (num_samples - 1 or math.nan)
    kl = kls.sum(0)
    terms = [reconstruction, kl, reconstruction + kl, math.log(num_samples) - log_weight]
    return torch.stack([*terms, *(kls if len(sizes) > 1 else ())], dim=1), means, squares


def _normal(generator: torch.Generator, like: torch.Tensor, count: int, size: int) -> torch.Tensor:
    """(count, size), the first of SAMPLES_AT_ONCE: another k then begins with the same samples."""
    return torch.randn((SAMPLES_AT_ONCE, size), generator=generator, device=like.device, dtype=like.dtype)[:count]


class _LogTerms(NamedTuple):
    """Of S samples of the chain for each of B images, in float64.

    log p(x|z_1) and log q(z|x) - log p(z) of all layers, (S, B); each layer's KL as far as it has a closed form, (T, S, B); the
    means of q, (S, B, sum of the sizes).
    """

    log_likelihood: torch.Tensor
    log_ratio: torch.Tensor
    kls: torch.Tensor
    means: torch.Tensor


def _log_terms(vae: Any, x: torch.Tensor, posterior: DiagonalPosterior, noise: torch.Tensor) -> Iterator[_LogTerms]:
    """The terms of as many samples at a time as the decoder's outputs have room for, noise (S, B, sum of the sizes)."""
    values = x[0].numel() * vae.likelihood.channels * len(x)
    at_once = max(1, VALUES_AT_ONCE.get(x.device.type, 2**20) // values)
    for part in noise.split(at_once):
        yield _chain_terms(vae, x, posterior, part.split(_latent_sizes(vae), dim=-1))


def _chain_terms(vae: Any, x: torch.Tensor, posterior: DiagonalPosterior, noises: Sequence[torch.Tensor]) -> _LogTerms:
    q: Any = posterior
    z = first = q.mean + q.std * noises[0]
    ratios, kls, means = [], [], []
    for layer, noise in enumerate(noises, 1):
        logvar, above, z_above = q.logvar.double(), None, z
        if layer < len(noises):
            above = vae.posterior(layer + 1, z)
            z_above = above.mean + above.std * noises[layer]
            prior = vae.prior(layer, z_above)
            distance = (z.double() - prior.mean.double()).square() * (-prior.logvar.double()).exp()
            surprise = distance + prior.logvar.double()
            kl = 0.5 * (surprise - 1 - logvar).sum(-1)
        else:
            surprise, kl = z.double().square(), q.kl().double()
        ratios.append(0.5 * (surprise - noise.double().square() - logvar).sum(-1))
        kls.append(kl.expand(noise.shape[:2]))
        means.append(q.mean.double().expand(noise.shape))
        q, z = above, z_above
    log_likelihood = vae.likelihood.log_prob(x, vae.decode_outputs(first)).double()
    return _LogTerms(log_likelihood, sum(ratios), torch.stack(kls), torch.cat(means, dim=-1))
