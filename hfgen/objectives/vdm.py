"""The training loss of a variational diffusion model: the bound itself, term by term, in nats per image."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from hfgen.core.errors import HfgenError
from hfgen.core.media import to_uint8
from hfgen.process import to_float64
from hfgen.process.variational import (
    LEVELS,
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

# the decoder's bins that count are within so many standard deviations of the noise of z_0, should gamma(0) rise by GAMMA_RISE
NEAR, GAMMA_RISE = 14.0, 3.0
Terms = dict[str, torch.Tensor]


class Schedule(Protocol):
    """gamma(t) = gamma(0) + (gamma(1) - gamma(0)) share(t)."""

    def ends(self, dtype: torch.dtype, /) -> tuple[torch.Tensor, torch.Tensor]:
        """gamma(0) and gamma(1), scalars."""

    def progress(self, t: torch.Tensor, /) -> tuple[torch.Tensor, torch.Tensor]:
        """share(t) and its derivative, (B,)."""


@dataclass(frozen=True, kw_only=True)
class VDMLoss:
    """prior + reconstruction + diffusion, whose mean over t in [0, 1) is the bound.

    In continuous time the diffusion term is 1/2 gamma'(t) ||eps - eps_hat||^2, and for T steps, with s = t - 1/T,
    T/2 (exp(gamma_t - gamma_s) - 1) ||eps - eps_hat||^2.

    The bound of continuous time does not depend on the schedule between its ends. What is learned of it there gets the gradient
    of the diffusion term's mean square instead, so that its estimate comes to vary less; the ends, the network, and all of a
    schedule of T steps get the bound's.

    Attributes:
        schedule: gamma(t), whose parameters may be learned.
        prediction_type: of the network, "epsilon" or "v_prediction".
        num_steps: T; None: continuous time.
        reach: bins to either side of the true one that the decoder's softmax sums over.
        continuous: whether rows are real numbers, such as latents, and no 8-bit images: the decoder is then a density.

    Raises `HfgenError` for T below 1.

    Source: Kingma et al. 2021, equations 11 to 18, and appendix I.2 for the two gradients.
    """

    schedule: Schedule
    prediction_type: str
    num_steps: int | None = None
    reach: int = LEVELS
    continuous: bool = False

    def __post_init__(self) -> None:
        if self.num_steps is not None and self.num_steps < 1:
            raise HfgenError(f"vdm_num_steps={self.num_steps}: a chain has 1 step or more")

    def __call__(
        self,
        model: Callable,
        x: torch.Tensor,
        *,
        times: torch.Tensor,
        noise: torch.Tensor,
        decoder_noise: torch.Tensor,
        cond: Mapping[str, torch.Tensor],
    ) -> Terms:
        """ "loss" and its parts of each row, float32 (B,).

        Args:
            model: called as `model(z, gamma, **cond, return_dict=False)`, returns (prediction,).
            x: 8-bit pixels as value / 127.5 - 1, or real numbers, (B, C, H, W).
            times: in [0, 1), (B,).
            noise, decoder_noise: standard normal, of z_t and of z_0, as x.
        """
        f, times = x if self.continuous else bin_centres(to_uint8(x)), to_float64(times)
        gamma_0, gamma_1 = (end.to(f.device) for end in self.schedule.ends(times.dtype))
        terms = {
            "prior": prior_nats(f, gamma_1).float(),
            "reconstruction": self._decoder(f, decoder_noise, gamma_0).float(),
            "diffusion": self._diffusion(model, f, noise, times, gamma_0, gamma_1, cond).float(),
        }
        return {"loss": terms["prior"] + terms["reconstruction"] + terms["diffusion"], **terms}

    def _decoder(self, f: torch.Tensor, noise: torch.Tensor, gamma_0: torch.Tensor) -> torch.Tensor:
        if self.continuous:
            return density_nats(noise, gamma_0)
        return decoder_nats(f, noise, gamma_0, reach=self.reach)

    def _diffusion(
        self,
        model: Callable,
        f: torch.Tensor,
        noise: torch.Tensor,
        times: torch.Tensor,
        gamma_0: torch.Tensor,
        gamma_1: torch.Tensor,
        cond: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        """The term of each row, in the precision of gamma, (B,)."""
        s, t = (None, times) if self.num_steps is None else step_times(times, self.num_steps)
        share, slope = self.schedule.progress(t)
        factor = torch.ones_like(share)
        if s is None:
            _scale_gradients((share, slope), factor)
        gamma = gamma_0 + (gamma_1 - gamma_0) * share
        output = model(diffuse(f, noise, gamma), gamma.float(), **cond, return_dict=False)[0].float()
        error = noise_error(output, f, noise, gamma, self.prediction_type)
        if s is not None and self.num_steps is not None:
            before, _ = self.schedule.progress(s)
            return step_weight(gamma_0 + (gamma_1 - gamma_0) * before, gamma, self.num_steps) * error
        density = 0.5 * (gamma_1 - gamma_0) * slope * error
        # d density^2 = 2 density d density; in bits/dim, so that it is of the size of the bound's gradient
        factor.copy_(2 * density.detach() / (f[0].numel() * math.log(2)))
        return density


def decoder_reach(gamma_0: float) -> int:
    """Bins to either side that a training need sum over, which begins with this gamma(0) and does not move it far."""
    return bins_within(NEAR, gamma_0 + GAMMA_RISE)


def _scale_gradients(parts: tuple[torch.Tensor, ...], factor: torch.Tensor) -> None:
    """Multiply the gradients that flow into `parts` by what `factor` holds when the backward pass begins."""
    for part in parts:
        if part.requires_grad:
            part.register_hook(lambda gradient: gradient * factor)
