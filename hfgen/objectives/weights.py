"""Weights of the squared error of x_0 at each t, w(t) ||x_0 - x_0_hat||^2, float64 (T,); entry i belongs to t = i + 1.

Each takes a `ReverseProcess`. `on_prediction` turns them into weights of the error of what the network predicts.
"""

from __future__ import annotations

import torch

from hfgen.process import ReverseProcess


def simple(process: ReverseProcess) -> torch.Tensor:
    """1 on the error of the prediction itself: L_simple for epsilon. Source: Ho et al. 2020, equation 14."""
    return process.parameterization.x_0_slope(process.forward) ** -2


def vlb(process: ReverseProcess) -> torch.Tensor:
    """The bound's own: T times the weight of ||x_0 - x_0_hat||^2 in L_{t-1} with p's fixed variance.

    The mean over t uniform on 1..T, times D and plus a constant, is then the bound in nats, but for L_0: there the Gaussian
    density takes the place of the discretised one. A learned variance counts as fixed_small.

    Source: Ho et al. 2020, equations 8 and 12.
    """
    of_x_0, _ = process.forward.posterior_mean_weights()
    return process.num_steps * of_x_0.square() / (2 * process.fixed_log_variance().exp())


def snr(process: ReverseProcess) -> torch.Tensor:
    """SNR(t): L_simple of epsilon whatever is predicted. Source: Salimans & Ho 2022, section 4, equation 9."""
    return process.forward.snr


def truncated_snr(process: ReverseProcess) -> torch.Tensor:
    """max(SNR(t), 1), so that steps of pure noise count. Source: Salimans & Ho 2022, section 4, equation 9."""
    return process.forward.snr.clamp(min=1)


def min_snr(process: ReverseProcess, gamma: float = 5.0) -> torch.Tensor:
    """min(SNR(t), gamma), so that steps of little noise do not rule. Source: Hang et al. 2023, section 3.4, equation 8."""
    return process.forward.snr.clamp(max=gamma)


WEIGHTS = {"simple": simple, "vlb": vlb, "snr": snr, "truncated_snr": truncated_snr, "min_snr": min_snr}


def on_prediction(process: ReverseProcess, weight: torch.Tensor) -> torch.Tensor:
    """w(t) (d x_0 / d prediction)^2: the weight of the prediction's squared error that does the same."""
    return weight * process.parameterization.x_0_slope(process.forward) ** 2
