"""The variational bound of a diffusion model, term by term, over a set of images."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol

import torch

from hfgen.core.errors import HfgenError
from hfgen.core.processes import shared
from hfgen.likelihood.images import Images, as_model_sees, check_not_empty
from hfgen.process import GaussianProcess, NetworkOutput, OutputShapeError, ReverseProcess, to_float64

BATCH = {"cpu": 64}
BATCH_ELSEWHERE = 512
IMAGES_AT_ONCE = 500


class DenoisingNetwork(Protocol):
    """A `UNet2DModel`, or what takes its place."""

    device: torch.device
    dtype: torch.dtype

    def eval(self) -> DenoisingNetwork:
        """The same, ready to be evaluated."""

    def __call__(self, x_t: torch.Tensor, timesteps: torch.Tensor, /, **cond: torch.Tensor) -> NetworkOutput:
        """Its prediction, as `ReverseProcess.terms` takes it, from x_t (B, C, H, W) and int64 timesteps (B,).

        `cond` is what it is told of each row: class_labels, int64 (B,), where there are labels, else nothing.
        """


class Estimate(NamedTuple):
    """A mean and its standard error."""

    mean: float
    standard_error: float


@dataclass(frozen=True, kw_only=True)
class VlbTerms:
    """-log p(x_0) <= L_T + sum_{t=2..T} L_{t-1} + L_0, means over images, in nats per image.

    Attributes:
        dimensions: D, pixel values of an image; `bits_per_dim` divides by D ln 2.
        images, evaluations: how many images were used, and how often the network was called on one.
        exact: every t for every image; else by sampled t.
        total, prior, diffusion, reconstruction: the bound, L_T, the sum of L_{t-1} over t = 2..T, and L_0. Standard
            errors of exact ones are those of the mean over the distribution that the images come from, and hold the noise
            too. Of sampled ones they are those of the mean over these very images, as soon as each is used several times.
        steps: float64 (T,), [L_0, L_1, ..., L_{T-1}], entry i from network calls at timestep i.
        steps_error: float64 (T,), standard errors; nan where there are fewer than two draws.
        draws: int64 (T,), network calls at each timestep.
    """

    dimensions: int
    images: int
    evaluations: int
    exact: bool
    total: Estimate
    prior: Estimate
    diffusion: Estimate
    reconstruction: Estimate
    steps: torch.Tensor = field(repr=False)
    steps_error: torch.Tensor = field(repr=False)
    draws: torch.Tensor = field(repr=False)

    def bits_per_dim(self, estimate: Estimate) -> Estimate:
        """Nats per image as bits per dimension."""
        scale = 1 / (self.dimensions * math.log(2))
        return Estimate(estimate.mean * scale, estimate.standard_error * scale)


class Evaluator:
    """Terms of a model at chosen (image, t), in batches that fit the device's memory.

    Raises `HfgenError` for a network that puts out another shape than the process needs, and for a full device.
    """

    def __init__(self, model: DenoisingNetwork, process: ReverseProcess, batch_size: int | None = None):
        self.device = model.device
        self.model, self.process = model.eval(), process.to(self.device)
        self.batch_size = batch_size or BATCH.get(self.device.type, BATCH_ELSEWHERE)

    @torch.no_grad()
    def __call__(
        self, x_0: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """As `ReverseProcess.terms`, for any number of rows; `labels` are their classes, which the network is told."""
        tensors = (x_0, noise, timesteps) if labels is None else (x_0, noise, timesteps, labels)
        parts = zip(*(tensor.split(self.batch_size) for tensor in tensors), strict=True)
        return torch.cat([self._fitting(*part) for part in parts])

    def _fitting(
        self, x_0: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        try:
            return self.process.terms(partial(self._predict, labels), to_float64(x_0), noise, timesteps)
        except OutputShapeError as error:
            raise HfgenError(str(error)) from error
        except torch.OutOfMemoryError as error:
            if len(x_0) == 1:
                raise HfgenError(
                    f"a single image does not fit on {self.device}: use a larger device, or cpu"
                ) from error
        # outside of the handler: the error that is handled keeps alive what filled the memory
        self.batch_size = max(1, len(x_0) // 2)
        return self(x_0, noise, timesteps, labels)

    def _predict(self, labels: torch.Tensor | None, x_t: torch.Tensor, timesteps: torch.Tensor) -> NetworkOutput:
        cond = {} if labels is None else {"class_labels": labels}
        return self.model(x_t.to(self.model.dtype), timesteps, **cond)


def mean_and_error(
    total: torch.Tensor, squares: torch.Tensor, count: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Means and their standard errors from sums, sums of squares and counts, float64; nan for fewer than 1 or 2 values."""
    mean = total / count
    variance = (squares - total * mean).clamp(min=0) / (count - 1)
    error = torch.where(count > 1, (variance / count).sqrt(), torch.nan)
    return mean, error


def estimate(values: torch.Tensor) -> Estimate:
    """Of independent values, (N,)."""
    mean, error = mean_and_error(values.sum(), values.square().sum(), torch.tensor(len(values)))
    return Estimate(mean.item(), error.item())


def prior_kl(process: GaussianProcess, images: Images) -> torch.Tensor:
    """L_T of all images, in nats, float64 (N,) on the CPU; `HfgenError` for no images."""
    check_not_empty(images)
    rows = torch.arange(len(images)).split(IMAGES_AT_ONCE)
    found = shared(rows, lambda own: (process.prior_kl(as_model_sees(pixels)).cpu() for pixels in images.batches(own)))
    return torch.cat([part for _, part in found])


def dimensions(images: Images) -> int:
    """D, the pixel values of an image."""
    return next(images.batches([torch.arange(1)]))[0].numel()
