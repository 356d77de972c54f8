"""What a network predicts of x_t: the noise, x_0, the velocity or the posterior's mean, and what each says about x_0.

A prediction is linear in x_0 at a given x_t; its slope turns weights of the error of x_0 into weights of the error of the prediction.
"""

from __future__ import annotations

from typing import Protocol

import torch

from hfgen.process.gaussian import GaussianProcess, to_float64, values_at


class Parameterization(Protocol):
    """One way to predict; images and predictions are (B, ...), timesteps int64 (B,), counted from 0.

    Attributes:
        prediction_type: its name in the configs of diffusers' schedulers.
    """

    prediction_type: str

    def target(
        self, process: GaussianProcess, x_0: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """What the network is to put out, from x_0 and the noise in x_t."""

    def x_0(
        self, process: GaussianProcess, output: torch.Tensor, x_t: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """The x_0 that the network's output says, in the dtype of `x_t`."""

    def epsilon(
        self, process: GaussianProcess, output: torch.Tensor, x_t: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """The noise in x_t that the network's output says, in the dtype of `x_t`."""

    def x_0_slope(self, process: GaussianProcess) -> torch.Tensor:
        """d x_0 / d output at a given x_t, float64 (T,)."""


def epsilon_from_prediction(
    prediction_type: str, output: torch.Tensor, x_t: torch.Tensor, alpha_bar: torch.Tensor
) -> torch.Tensor:
    """The noise in x_t that a prediction says; `alpha_bar` is broadcast with it.

    Raises `ValueError` for a prediction_type other than epsilon, sample and v_prediction.

    Source: Ho et al. 2020, equation 4; Salimans & Ho 2022, appendix D.
    """
    if prediction_type == "epsilon":
        return output
    if prediction_type == "v_prediction":
        return alpha_bar.sqrt() * output + (1 - alpha_bar).sqrt() * x_t
    if prediction_type == "sample":
        return (x_t - alpha_bar.sqrt() * output) / (1 - alpha_bar).sqrt()
    raise ValueError(f"prediction_type={prediction_type!r}: known here are epsilon, sample and v_prediction")


class _OfTheMarginal:
    """What epsilon, x_0 and v share: they are functions of x_0, the noise and alpha_bar_t alone."""

    prediction_type: str

    def epsilon(
        self, process: GaussianProcess, output: torch.Tensor, x_t: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        wide = to_float64(x_t)  # 1 - alpha_bar of a narrow alpha_bar has no digits at small t
        alpha_bar = values_at(process.alpha_bar, timesteps, wide)
        return epsilon_from_prediction(self.prediction_type, output, wide, alpha_bar).to(x_t.dtype)


class Epsilon(_OfTheMarginal):
    """The noise in x_t. Source: Ho et al. 2020, equation 11."""

    prediction_type = "epsilon"

    def target(
        self, process: GaussianProcess, x_0: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        return noise

    def x_0(
        self, process: GaussianProcess, output: torch.Tensor, x_t: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        signal, sigma = process.signal_and_sigma(timesteps, x_t)
        return (x_t - sigma * output) / signal

    def x_0_slope(self, process: GaussianProcess) -> torch.Tensor:
        return -(process.one_minus_alpha_bar / process.alpha_bar).sqrt()


class Sample(_OfTheMarginal):
    """x_0 itself. Source: Ho et al. 2020, section 3.2."""

    prediction_type = "sample"

    def target(
        self, process: GaussianProcess, x_0: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        return x_0

    def x_0(
        self, process: GaussianProcess, output: torch.Tensor, x_t: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        return output

    def x_0_slope(self, process: GaussianProcess) -> torch.Tensor:
        return torch.ones_like(process.alpha_bar)


class Velocity(_OfTheMarginal):
    """v = sqrt(alpha_bar_t) noise - sqrt(1 - alpha_bar_t) x_0. Source: Salimans & Ho 2022, appendix D."""

    prediction_type = "v_prediction"

    def target(
        self, process: GaussianProcess, x_0: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        signal, sigma = process.signal_and_sigma(timesteps, x_0)
        return signal * noise - sigma * x_0

    def x_0(
        self, process: GaussianProcess, output: torch.Tensor, x_t: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        signal, sigma = process.signal_and_sigma(timesteps, x_t)
        return signal * x_t - sigma * output

    def x_0_slope(self, process: GaussianProcess) -> torch.Tensor:
        return -process.sigma


class PosteriorMean:
    """The mean of q(x_{t-1} | x_t, x_0). Source: Ho et al. 2020, equations 7 and 8."""

    prediction_type = "mu"

    def target(
        self, process: GaussianProcess, x_0: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        mean, _ = process.posterior(x_0, process.add_noise(x_0, noise, timesteps), timesteps)
        return mean

    def x_0(
        self, process: GaussianProcess, output: torch.Tensor, x_t: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        of_x_0, of_x_t = (values_at(weight, timesteps, x_t) for weight in process.posterior_mean_weights())
        return (output - of_x_t * x_t) / of_x_0

    def epsilon(
        self, process: GaussianProcess, output: torch.Tensor, x_t: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        return Sample().epsilon(process, self.x_0(process, output, x_t, timesteps), x_t, timesteps)

    def x_0_slope(self, process: GaussianProcess) -> torch.Tensor:
        of_x_0, _ = process.posterior_mean_weights()
        return 1 / of_x_0


PARAMETERIZATIONS: dict[str, Parameterization] = {
    each.prediction_type: each for each in (Epsilon(), Sample(), Velocity(), PosteriorMean())
}
