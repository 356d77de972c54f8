"""L_simple of Ho et al. (2020)."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class SimpleLoss:
    """L_simple = E_{t, x_0, eps} || eps - eps_theta(x_t, t) ||^2, t uniform on 1..T, as a mean over pixels.

    `scheduler` supplies T and x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps. It is no bound on the likelihood.

    Source: Ho et al. 2020, Algorithm 1 and equation 14.
    """

    scheduler: object

    def sample_timesteps(self, uniform: torch.Tensor) -> torch.Tensor:
        """Timesteps 0..T-1 (t = 1..T) from numbers that are uniform on [0, 1); same shape, int64."""
        num_steps = self.scheduler.config.num_train_timesteps
        return (uniform * num_steps).long().clamp_(max=num_steps - 1)

    def __call__(self, model, x_0: torch.Tensor, noise: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        """The loss of each image, shape (B,); x_0 in [-1, 1] and noise are (B, C, H, W), uniform is (B,)."""
        timesteps = self.sample_timesteps(uniform)
        x_t = self.scheduler.add_noise(x_0, noise, timesteps)
        predicted = model(x_t, timesteps, return_dict=False)[0]
        return (noise - predicted.float()).square().mean(dim=(1, 2, 3))
