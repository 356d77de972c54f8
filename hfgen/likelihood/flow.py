"""Bounds on log p(x) of 8-bit images by the density of dequantised ones, streamed over images and noises."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from tqdm.auto import tqdm

from hfgen.core.errors import HfgenError
from hfgen.core.media import to_model_range
from hfgen.core.processes import is_first, shared
from hfgen.core.random import Stream, seeded
from hfgen.core.resume import SAVE_SECONDS, Resumable
from hfgen.core.statistics import standard_error
from hfgen.likelihood.images import Images, check_not_empty

IMAGES_AT_ONCE = 250


class Dequantized(Protocol):
    """A density of dequantised pixels, such as `FlowModel`."""

    def __call__(self, sample: torch.Tensor, noise: torch.Tensor, /) -> torch.Tensor:
        """log p(x + n) - log q(n|x) in nats, (B,), of images (B, C, H, W) in [-1, 1] and noise of their shape."""


@dataclass(frozen=True)
class DequantizationBounds:
    """Of each image log p(x + n) - log q(n|x) over `num_samples` noises, in nats: float64 (N, 2) on the CPU, its mean, and its
    log-mean-exp, each negative.
    """

    num_samples: int
    values: torch.Tensor = field(repr=False)
    names = ("negative_elbo", "negative_iw_bound")

    def mean(self, name: str) -> float:
        """Over images, of one of `names`."""
        return self.values[:, self.names.index(name)].mean().item()

    def standard_error(self, name: str) -> float:
        """Of the mean, over images; nan for a single image."""
        return standard_error(self.values[:, self.names.index(name)])


@torch.no_grad()
def dequantization_bounds(
    flow: Dequantized,
    images: Images,
    *,
    variational: bool,
    num_samples: int = 16,
    seed: int = 0,
    batch_size: int = IMAGES_AT_ONCE,
    resumable: Resumable | None = None,
) -> DequantizationBounds:
    """-log p(x) <= E[-log 1/K sum_k p(x + n_k) / q(n_k|x)] <= E[log q(n|x) - log p(x + n)], the noises n_k of q(n|x).

    The noise of image i is a function of (seed, i) alone, and begins in the same way whatever K is.

    Args:
        variational: whether `flow` takes standard normal noise, as a learned q(n|x) does; else uniform noise on [0, 1).
        num_samples: K.
        resumable: where to keep what is done.

    Raises `HfgenError` for no images, and for K, seed or batch_size out of range.

    Source: Ho et al. 2019, equations 11 and 12; Burda et al. 2016, equation 8.
    """
    for name, value, least in (("num_samples", num_samples, 1), ("batch_size", batch_size, 1), ("seed", seed, 0)):
        if value < least:
            raise HfgenError(f"{name}={value}: use {least} or more")
    check_not_empty(images)
    resumable = resumable or Resumable(None)
    kept = resumable.load("bounds") or {"values": torch.zeros(0, 2, dtype=torch.float64)}
    done = len(kept["values"])
    rows: Sequence[torch.Tensor] = ()
    if done < len(images):
        rows = torch.arange(done, len(images)).split(batch_size)
    saved_at = time.monotonic()

    def found(own: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        for batch, pixels in zip(own, images.batches(own), strict=True):
            log_weights = _log_weights(flow, to_model_range(pixels), batch, num_samples, seed, variational)
            best = log_weights.logsumexp(0) - math.log(num_samples)
            yield -torch.stack([log_weights.mean(0), best], dim=1).cpu()

    with tqdm(total=len(images), initial=done, desc="evaluating", unit="image", disable=not is_first()) as bar:
        for batch, values in shared(rows, found):
            kept = {"values": torch.cat([kept["values"], values])}
            if time.monotonic() - saved_at > SAVE_SECONDS:
                resumable.save("bounds", kept)
                saved_at = time.monotonic()
            bar.update(len(batch))
    return DequantizationBounds(num_samples, kept["values"])


def _log_weights(
    flow: Dequantized, x: torch.Tensor, rows: torch.Tensor, num_samples: int, seed: int, variational: bool
) -> torch.Tensor:
    """log p(x + n_k) - log q(n_k|x), float64 (K, B)."""
    draw = torch.randn if variational else torch.rand
    generators = [seeded(x.device, seed, Stream.EVALUATION, int(row)) for row in rows]
    log_weights = []
    for _ in range(num_samples):
        noise = torch.stack([draw(x.shape[1:], generator=g, device=x.device) for g in generators])
        log_weights.append(flow(x, noise).double())
    return torch.stack(log_weights)
