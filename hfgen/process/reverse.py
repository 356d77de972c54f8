"""The reverse process of a trained network, and the terms of the bound that compare it with the forward one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from hfgen.process.discretized import discretized_gaussian_nll, gaussian_nll
from hfgen.process.gaussian import GaussianProcess, append_dims, to_float64, values_at
from hfgen.process.parameterization import Parameterization

FIXED = {"fixed_small": "small", "fixed_small_log": "small", "fixed_large": "large", "fixed_large_log": "large"}
LEARNED = ("learned", "learned_range")
# sigma^2 that a network puts out is positive: this is diffusers' floor
LEAST_VARIANCE = 1e-20


class NetworkOutput(Protocol):
    """What networks of diffusers return."""

    sample: torch.Tensor


Network = Callable[[torch.Tensor, torch.Tensor], NetworkOutput]


class OutputShapeError(ValueError):
    """A network whose output has another shape than its variance type needs."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ReverseProcess:
    """p(x_{t-1} | x_t) of a network, a Gaussian with the mean of q(x_{t-1} | x_t, x_0_hat).

    Nothing is clipped: clipping x_0 is for sampling.

    Attributes:
        forward: q.
        parameterization: what the network predicts.
        variance_type: fixed_small (beta_tilde), fixed_large (beta), learned_range or learned, a second half of the network's
            channels. beta_tilde is 0 at t = 1: there the fixed variances are that of t = 2, and learned_range starts from it
            (as Ho et al.'s code and Nichol & Dhariwal's do).
        continuous: whether x_0 is no 8-bit image but real numbers, such as latents: L_0 is then -log of a density, of variance
            (1 - abar_1) / abar_1, that of x_0 given x_1 where all else is flat.

    Raises `ValueError` for another variance_type.

    Source: Ho et al. 2020, section 3.2; Nichol & Dhariwal 2021, equation 15.
    """

    forward: GaussianProcess
    parameterization: Parameterization
    variance_type: str = "fixed_small"
    continuous: bool = False

    def __post_init__(self) -> None:
        if self.variance_type not in FIXED and self.variance_type not in LEARNED:
            raise ValueError(f"variance_type={self.variance_type!r}: known are {', '.join((*FIXED, *LEARNED))}")

    @property
    def num_steps(self) -> int:
        """T."""
        return self.forward.num_steps

    @property
    def learned_variance(self) -> bool:
        """Whether half of the network's channels tell the variance."""
        return self.variance_type in LEARNED

    def to(self, device: torch.device) -> ReverseProcess:
        """The same with its tables on `device`, as `GaussianProcess.to`."""
        return replace(self, forward=self.forward.to(device))

    def terms(self, model: Network, x_0: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """L_{t-1} of each row for t >= 2, and L_0 for t = 1, in nats, float64 (B,).

        Args:
            model: called as `model(x_t, timesteps)` with x_t in the dtype of x_0, returns an object with `sample`, (B, C, ...) or,
                with a learned variance, (B, 2C, ...).
            x_0: 8-bit images on [-1, 1], (B, C, ...), or of a continuous process real numbers.
            noise: standard normal, of the same shape.
            timesteps: int64 (B,), counted from 0: t - 1.

        Raises `OutputShapeError` for an output of another shape.
        """
        wide_x_0, wide_noise = to_float64(x_0), to_float64(noise)
        x_t = self.forward.add_noise(wide_x_0, wide_noise, timesteps).to(x_0.dtype)
        output = model(x_t, timesteps).sample
        channels = x_0.shape[1] * (2 if self.learned_variance else 1)
        if output.shape != (len(x_0), channels, *x_0.shape[2:]):
            raise OutputShapeError(
                f"the network puts out {output.shape[1]} channels for images of {x_0.shape[1]}, but variance_type="
                f"{self.variance_type!r} needs {channels}: set the variance_type in its scheduler's config"
            )
        return self.terms_of_output(to_float64(output), wide_x_0, wide_noise, timesteps)

    def terms_of_output(
        self, output: torch.Tensor, x_0: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """The same from what the network put out, in the dtype of `output`."""
        prediction, extra = output.chunk(2, dim=1) if self.learned_variance else (output, None)
        error = self.x_0_error(x_0, noise, prediction, timesteps)
        log_variance = self._log_variance(extra, timesteps, error)
        kl = self._kl(error, log_variance, timesteps)
        first = append_dims(timesteps == 0, error)
        # elsewhere x_0_hat may lie far out: a gradient that is not finite stays so when multiplied by 0
        decoder = self._decoder(x_0, torch.where(first, error, 0), log_variance)
        return torch.where(first, decoder, kl).flatten(1).sum(1)

    def _decoder(self, x_0: torch.Tensor, error: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
        """L_0 of each pixel."""
        if self.continuous:
            return gaussian_nll(error, self.forward.gamma[0].to(error.dtype))
        return discretized_gaussian_nll(x_0, x_0 - error, log_variance)

    def x_0_error(
        self, x_0: torch.Tensor, noise: torch.Tensor, prediction: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """x_0 - x_0_hat by the network's prediction, without the cancellation of going through x_0_hat."""
        target = self.parameterization.target(self.forward, x_0, noise, timesteps)
        return values_at(self.parameterization.x_0_slope(self.forward), timesteps, x_0) * (target - prediction)

    def fixed_log_variance(self) -> torch.Tensor:
        """log sigma_t^2 of a fixed variance, float64 (T,); of a learned one, of fixed_small."""
        low = self.forward.log_beta_tilde()
        large = FIXED.get(self.variance_type) == "large"
        return torch.cat([low[:1], self.forward.beta.log()[1:]]) if large else low

    def _kl(self, error: torch.Tensor, log_variance: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)) of each pixel; meaningless at timestep 0."""
        of_x_0, _ = self.forward.posterior_mean_weights()
        distance = values_at(of_x_0, timesteps, error) * error
        log_ratio = values_at(self.forward.log_beta_tilde(), timesteps, error) - log_variance
        return 0.5 * (torch.expm1(log_ratio) - log_ratio + distance.square() * (-log_variance).exp())

    def _log_variance(self, extra: torch.Tensor | None, timesteps: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """log sigma_t^2, (B, 1, ...) or for learned ones, which `extra` holds, (B, C, ...)."""
        if extra is None:
            return values_at(self.fixed_log_variance(), timesteps, like)
        if self.variance_type == "learned":
            return extra.clamp(min=LEAST_VARIANCE).log()
        high, low = (values_at(v, timesteps, like) for v in (self.forward.beta.log(), self.forward.log_beta_tilde()))
        share = (extra + 1) / 2
        return share * high + (1 - share) * low
