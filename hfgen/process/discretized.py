"""Gaussians over 8-bit pixels and over real numbers."""

from __future__ import annotations

import math

import torch

HALF_BIN = 1 / 255


def discretized_gaussian_nll(x: torch.Tensor, mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """-log p(x) in nats of each pixel: the mass of N(mean, exp(log_variance)) in x's bin of 2/255, the edge bins to infinity.

    `x` holds 8-bit values on [-1, 1] (value / 127.5 - 1); all three have one shape or broadcast to it. Stable for means many
    standard deviations away, where a difference of two distribution functions is 0.

    Source: Ho et al. 2020, equation 13.
    """
    scale = (-log_variance / 2).exp()
    lower = torch.where(x < -1 + HALF_BIN, -torch.inf, (x - mean - HALF_BIN) * scale)
    upper = torch.where(x > 1 - HALF_BIN, torch.inf, (x - mean + HALF_BIN) * scale)
    # the mass between a and b is that between -b and -a: the one in the lower tail keeps its digits
    flip = lower > 0
    lower, upper = torch.where(flip, -upper, lower), torch.where(flip, -lower, upper)
    log_upper = torch.special.log_ndtr(upper)
    return -(log_upper + torch.log(-torch.expm1(torch.special.log_ndtr(lower) - log_upper)))


def gaussian_nll(error: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """-log N(x; x - error, exp(log_variance)) of each number, in nats: of a density, below 0 where it is above 1."""
    return 0.5 * (error.square() * (-log_variance).exp() + log_variance + math.log(2 * math.pi))
