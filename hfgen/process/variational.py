"""The terms of a variational diffusion model's bound, in nats of each row, over gamma = -log SNR of any time.

Data are f = 2 (value + 1/2) / 256 - 1, the centres of 256 bins, (B, ...); a gamma is a scalar or (B,), and what is computed of it
alone has its precision.

Source: Kingma et al. 2021, sections 3 and 4.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from hfgen.process.gaussian import append_dims, squared_coefficients

LEVELS = 256


def bin_centres(values: torch.Tensor) -> torch.Tensor:
    """f of 8-bit values 0..255, exact, in float32 or in the floating-point type of `values`."""
    values = values if values.is_floating_point() else values.float()
    return (values - (LEVELS - 1) / 2) / (LEVELS / 2)


def bin_values(f: torch.Tensor) -> torch.Tensor:
    """The 8-bit values 0..255 whose bins f lies in, in the dtype of f."""
    return (f * (LEVELS / 2) + (LEVELS - 1) / 2).round().clamp(0, LEVELS - 1)


def alpha_sigma(gamma: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The weights of f and of the noise in z, (B, 1, ...) in the dtype of `like`, (B, ...)."""
    alpha_squared, sigma_squared = squared_coefficients(gamma)
    return append_dims(alpha_squared.sqrt(), like).to(like.dtype), append_dims(sigma_squared.sqrt(), like).to(
        like.dtype
    )


def diffuse(f: torch.Tensor, noise: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
    """z = alpha f + sigma eps, (B, ...), in the dtype of f."""
    alpha, sigma = alpha_sigma(gamma, f)
    return alpha * f + sigma * noise


def noise_error(
    output: torch.Tensor, f: torch.Tensor, noise: torch.Tensor, gamma: torch.Tensor, prediction_type: str
) -> torch.Tensor:
    """||eps - eps_hat||^2, (B,), of a network that puts out eps_hat, "epsilon", or the v_hat of v = alpha eps - sigma f.

    For v it is alpha^2 ||v - v_hat||^2. Source: Salimans & Ho 2022, appendix D.
    """
    if prediction_type == "epsilon":
        return (noise - output).to(gamma.dtype).square().flatten(1).sum(1)
    alpha, sigma = alpha_sigma(gamma, f)
    square = (alpha * noise - sigma * f - output).to(gamma.dtype).square().flatten(1).sum(1)
    return torch.sigmoid(-gamma) * square


def prior_nats(f: torch.Tensor, gamma_1: torch.Tensor) -> torch.Tensor:
    """KL(q(z_1 | f) || N(0, I)) = 1/2 sum [alpha_1^2 f^2 + sigma_1^2 - ln sigma_1^2 - 1], (B,)."""
    square = f.to(gamma_1.dtype).square().flatten(1)
    dimensions = square.shape[1]
    # sigma^2 - 1 is -alpha^2, and the logarithm of a sigma^2 near 1 would lose it
    return 0.5 * (torch.sigmoid(-gamma_1) * (square.sum(1) - dimensions) - dimensions * F.logsigmoid(gamma_1))


def bins_within(deviations: float, gamma_0: float) -> int:
    """How many bins to either side lie within so many standard deviations of the noise of z_0, at least 1."""
    return min(LEVELS, math.ceil(deviations * math.exp(gamma_0 / 2) * LEVELS / 2))


def decoder_nats(f: torch.Tensor, noise: torch.Tensor, gamma_0: torch.Tensor, *, reach: int = LEVELS) -> torch.Tensor:
    """-log p(value | z_0), (B,): a softmax over the bins of -1/2 ((z_0 / alpha_0 - f_v) e^(-gamma_0 / 2))^2.

    `noise` is that of z_0. Only bins within `reach` of the true one are summed over; by default all are. The gradient is that of
    gamma_0, the one parameter. Source: Kingma et al. 2021, section 3.3.
    """
    # bins are so many standard deviations of the noise apart: nothing cancels, however narrow it is
    spacing = 2 / LEVELS * torch.exp(-gamma_0 / 2)
    nats, slope = _softmax_nats(f, noise, spacing.detach().to(noise.dtype), min(reach, LEVELS - 1))
    return nats.flatten(1).sum(1) + slope.flatten(1).sum(1) * (spacing - spacing.detach())


def density_nats(noise: torch.Tensor, gamma_0: torch.Tensor) -> torch.Tensor:
    """-log N(f; z_0 / alpha_0, e^gamma_0) of real numbers f in the place of bins, (B,), by the noise of z_0."""
    square = noise.to(gamma_0.dtype).square().flatten(1)
    return 0.5 * (square.sum(1) + square.shape[1] * (gamma_0 + math.log(2 * math.pi)))


@torch.no_grad()
def _softmax_nats(
    f: torch.Tensor, noise: torch.Tensor, spacing: torch.Tensor, reach: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """-log p(value | z_0) of each pixel and its derivative by `spacing`, as f.

    Bin by bin, as the logits of all bins of all pixels would be hundreds of times the images. Those are written relative to that of
    the true bin, which leaves k spacing (noise - k spacing / 2) for the one k bins above it, noise^2 / 2 at most.
    """
    below = bin_values(f)
    others, slope = torch.zeros_like(noise), torch.zeros_like(noise)
    for k in range(1, reach + 1):
        for sign, there_is in ((1, below < LEVELS - k), (-1, below >= k)):
            step = sign * k * spacing
            odds = (noise - step / 2).mul_(step).exp_().mul_(there_is)
            others += odds
            slope += odds.mul_(noise - step).mul_(sign * k)
    return torch.log1p(others), slope / (1 + others)


def step_weight(gamma_s: torch.Tensor, gamma_t: torch.Tensor, num_steps: int) -> torch.Tensor:
    """T/2 (exp(gamma_t - gamma_s) - 1), (B,): of ||eps - eps_hat||^2 at a step t drawn from T. Equation 14."""
    return 0.5 * num_steps * torch.expm1(gamma_t - gamma_s)


def step_times(u: torch.Tensor, num_steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """s and t = s + 1/T of the one of T steps that u, (B,) in [0, 1), lies in."""
    step = (u * num_steps).floor().clamp(max=num_steps - 1)
    return step / num_steps, (step + 1) / num_steps
