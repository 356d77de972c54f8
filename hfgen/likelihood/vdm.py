"""The bound of a variational diffusion model, in continuous time and for any number of steps."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from tqdm.auto import tqdm

from hfgen.core.errors import HfgenError
from hfgen.core.processes import is_first, shared
from hfgen.core.random import Stream, seeded
from hfgen.core.resume import SAVE_SECONDS, Resumable
from hfgen.likelihood.images import Images, check_not_empty
from hfgen.likelihood.vlb import BATCH, BATCH_ELSEWHERE, Estimate, estimate, mean_and_error
from hfgen.process import to_float64
from hfgen.process.variational import (
    bin_centres,
    bins_within,
    decoder_nats,
    density_nats,
    diffuse,
    noise_error,
    prior_nats,
    step_times,
    step_weight,
)

CURVE = 100
PART = "vdm"
# times with their terms, float64 (P,) each
Curve = list[tuple[torch.Tensor, torch.Tensor]]
# standard deviations of z_0's noise beyond which a bin counts for less than e^-400 of the true one
ALL = 40.0


class Schedule(Protocol):
    """gamma(t) over [0, 1]."""

    def ends(self, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
        """gamma(0) and gamma(1), scalars."""

    def rate(self, t: torch.Tensor, /) -> torch.Tensor:
        """gamma'(t), (B,)."""

    def __call__(self, t: torch.Tensor, /) -> torch.Tensor:
        """gamma(t), (B,)."""


class Predict(Protocol):
    """A network."""

    def __call__(self, z: torch.Tensor, gamma: torch.Tensor, /, **cond: torch.Tensor) -> torch.Tensor:
        """What it says of z (B, C, H, W) at gamma (B,), told class_labels, int64 (B,), where there are labels."""


@dataclass(frozen=True, kw_only=True)
class VDMTerms:
    """-log p(x) <= prior + reconstruction + diffusion, means over images, in nats per image.

    Attributes:
        dimensions: D, pixel values of an image; `bits_per_dim` divides by D ln 2.
        images, evaluations: how many images were used, and how often the network was called on one.
        num_steps: T; None: continuous time.
        total, prior, reconstruction, diffusion: the bound and its parts. Standard errors are those of the mean over the
            distribution that the images come from, and hold noise and times too.
        deviation: the standard deviation of a diffusion term drawn at a single time of a single image.
        curve, curve_error, draws: the diffusion term by parts of [0, 1], in T or at most 100 of equal length, with its standard
            errors and network calls; nan where there are too few of these.
    """

    dimensions: int
    images: int
    evaluations: int
    num_steps: int | None
    total: Estimate
    prior: Estimate
    reconstruction: Estimate
    diffusion: Estimate
    deviation: float
    curve: torch.Tensor = field(repr=False)
    curve_error: torch.Tensor = field(repr=False)
    draws: torch.Tensor = field(repr=False)

    def bits_per_dim(self, estimate: Estimate) -> Estimate:
        """Nats per image as bits per dimension."""
        scale = 1 / (self.dimensions * math.log(2))
        return Estimate(estimate.mean * scale, estimate.standard_error * scale)


@torch.no_grad()
def vdm_bound(
    predict: Predict,
    schedule: Schedule,
    images: Images,
    *,
    prediction_type: str = "epsilon",
    num_steps: int | None = None,
    continuous: bool = False,
    evaluations: int = 100_000,
    labels: torch.Tensor | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    resumable: Resumable | None = None,
) -> VDMTerms:
    """The bound of every image at K = evaluations / images times, and at least one.

    An image's times are t_k = (t_0 + k / K) mod 1, with a t_0 of its own: spread evenly, so that they vary less than K random
    ones, and each uniform, so that the mean stays that of uniform t. Of a chain of T steps each stands for the step that it lies
    in. Times and noise of image i are functions of (seed, i) alone: neither `batch_size` nor breaking off and going on matters but
    for rounding.

    Args:
        predict: (z (B, C, H, W), gamma (B,)) to what the network says, both float32 on the device of the images.
        schedule: gamma(t), asked in float64.
        images: 8-bit, such as `ImagesInMemory` or `ImagesStreamed`.
        prediction_type: of the network, "epsilon" or "v_prediction".
        num_steps: T; None: continuous time.
        continuous: whether the rows are real numbers as the model sees them, such as latents: the decoder is then a density.
        evaluations: network evaluations of all images together.
        labels: the class of each image, int64 (N,), which the network is then told: the bound is one on p(x | class).
        seed: of times and noise.
        batch_size: network evaluations at once; by default by the device.
        resumable: where to keep what is done.

    Raises `HfgenError` for no images, for such as are not 8-bit, for T or evaluations below 1, and for a device that is full.

    Source: Kingma et al. 2021, equations 11 to 17; the times: appendix I.1.
    """
    for name, value in (("num_steps", num_steps), ("evaluations", evaluations)):
        if value is not None and value < 1:
            raise HfgenError(f"{name}={value}: use 1 or more")
    check_not_empty(images)
    first = next(images.batches([torch.arange(1)]))
    if first.dtype != torch.uint8 and not continuous:
        raise HfgenError(f"images of {first.dtype}: the decoder is one over the 256 values of 8-bit images; pass uint8")
    terms = _Terms(predict, schedule, prediction_type, num_steps, continuous)
    times = max(1, evaluations // len(images))
    sums = _Sums(len(images), terms.parts, resumable or Resumable(None))
    at_once = batch_size or BATCH.get(first.device.type, BATCH_ELSEWHERE)
    rows = torch.arange(sums.done, len(images)).split(max(1, at_once // times)) if sums.done < len(images) else ()

    def found(own: Sequence[torch.Tensor]) -> Iterator[tuple[torch.Tensor, Curve]]:
        for batch, pixels in zip(own, images.batches(own), strict=True):
            f = to_float64(pixels) if continuous else bin_centres(to_float64(pixels))
            generators = [seeded(_cpu_for_mps(f.device), seed, Stream.EVALUATION, int(row)) for row in batch]
            told = None if labels is None else labels[batch].to(f.device)
            yield terms.of_images(f, generators, times, at_once, told)

    with tqdm(total=len(images), initial=sums.done, desc="bound", unit="image", disable=not is_first()) as bar:
        for batch, (of_images, curve) in shared(rows, found):
            sums.add(batch, of_images, curve)
            bar.update(len(batch))
    return sums.result(first[0].numel(), times, num_steps)


@dataclass(frozen=True)
class _Terms:
    predict: Predict
    schedule: Schedule
    prediction_type: str
    num_steps: int | None
    continuous: bool

    @property
    def parts(self) -> int:
        """How many the curve has."""
        return CURVE if self.num_steps is None else min(self.num_steps, CURVE)

    def of_images(
        self,
        f: torch.Tensor,
        generators: list[torch.Generator],
        times: int,
        at_once: int,
        labels: torch.Tensor | None,
    ) -> tuple[torch.Tensor, Curve]:
        """Prior, reconstruction and diffusion of each image, float64 (B, 3), and the diffusion at each time; all on the CPU."""
        gamma_0, gamma_1 = (end.to(f) for end in self.schedule.ends())
        t_0 = torch.stack([torch.rand((), generator=g, device=g.device) for g in generators]).to(f)
        reconstruction = self.decoder(f, _noise(generators, f, 1), gamma_0)
        total, curve = torch.zeros_like(t_0), []
        group = max(1, at_once // len(f))
        for first in range(0, times, group):
            count = min(group, times - first)
            # of each image in turn: a number that is drawn does not depend on the batches
            noise = _noise(generators, f, count)
            t = (t_0[:, None] + torch.arange(first, first + count, device=f.device) / times) % 1
            cond = {} if labels is None else {"class_labels": labels.repeat_interleave(count)}
            found = self.diffusion(f.repeat_interleave(count, 0), noise, t.flatten(), **cond).view(len(f), count)
            total += found.sum(1) / times
            curve.append((t.flatten().double().cpu(), found.flatten().double().cpu()))
        return torch.stack([prior_nats(f, gamma_1), reconstruction, total], dim=1).double().cpu(), curve

    def decoder(self, f: torch.Tensor, noise: torch.Tensor, gamma_0: torch.Tensor) -> torch.Tensor:
        """The term of z_0 of each row, float64 (B,)."""
        if self.continuous:
            return density_nats(noise, gamma_0)
        return decoder_nats(f, noise, gamma_0, reach=bins_within(ALL, gamma_0.item()))

    def diffusion(self, f: torch.Tensor, noise: torch.Tensor, t: torch.Tensor, **cond: torch.Tensor) -> torch.Tensor:
        """The term of each row, float64 (B,), whose mean over t is the diffusion loss."""
        if self.num_steps is None:
            gamma, weight = self.schedule(t), 0.5 * self.schedule.rate(t)
        else:
            before, gamma = map(self.schedule, step_times(t, self.num_steps))
            weight = step_weight(before, gamma, self.num_steps)
        output = to_float64(self.predict(diffuse(f, noise, gamma).float(), gamma.float(), **cond))
        return weight * noise_error(output, f, noise, gamma, self.prediction_type)


class _Sums:
    """The terms of each image, and sums over parts of [0, 1]."""

    def __init__(self, images: int, parts: int, resumable: Resumable):
        self.resumable, self.saved_at = resumable, time.monotonic()
        self.tensors = resumable.load(PART) or {
            "images": torch.zeros(images, 3, dtype=torch.float64),
            "curve": torch.zeros(3, parts, dtype=torch.float64),
            "done": torch.zeros((), dtype=torch.int64),
        }

    @property
    def done(self) -> int:
        return int(self.tensors["done"])

    def add(self, rows: torch.Tensor, of_images: torch.Tensor, curve: Curve) -> None:
        for t, terms in curve:
            self._add(t, terms)
        self.tensors["images"][rows] = of_images
        self.tensors["done"] += len(rows)
        if time.monotonic() - self.saved_at > SAVE_SECONDS:
            self.resumable.save(PART, self.tensors)
            self.saved_at = time.monotonic()

    def _add(self, t: torch.Tensor, terms: torch.Tensor) -> None:
        curve = self.tensors["curve"]
        parts = (t * curve.shape[1]).long().clamp(max=curve.shape[1] - 1)
        for row, values in enumerate((torch.ones_like(terms), terms, terms.square())):
            curve[row].index_add_(0, parts, values)

    def result(self, dimensions: int, times: int, num_steps: int | None) -> VDMTerms:
        prior, reconstruction, diffusion = self.tensors["images"].unbind(1)
        count, sums, squares = self.tensors["curve"]
        mean, error = mean_and_error(sums, squares, count)
        drawn = count.sum()
        variance = squares.sum() / drawn - (sums.sum() / drawn).square()
        return VDMTerms(
            dimensions=dimensions,
            images=len(prior),
            evaluations=times * len(prior),
            num_steps=num_steps,
            total=estimate(prior + reconstruction + diffusion),
            prior=estimate(prior),
            reconstruction=estimate(reconstruction),
            diffusion=estimate(diffusion),
            deviation=variance.clamp(min=0).sqrt().item(),
            curve=mean / len(mean),
            curve_error=error / len(mean),
            draws=count.long(),
        )


def _noise(generators: list[torch.Generator], f: torch.Tensor, count: int) -> torch.Tensor:
    """Standard normal, (len(f) * count, ...), the numbers of each image in turn."""
    # a number drawn with a tensor of another size is another number: one call for each time
    shape = f.shape[1:]
    drawn = [torch.randn(shape, generator=g, device=g.device) for g in generators for _ in range(count)]
    return torch.stack(drawn).to(f)


def _cpu_for_mps(device: torch.device) -> torch.device:
    return torch.device("cpu") if device.type == "mps" else device
