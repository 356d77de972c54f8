"""A DDPM scheduler for networks that predict the mean of q(x_{t-1} | x_t, x_0). This file needs torch and diffusers alone."""

from __future__ import annotations

import torch
from diffusers import DDPMScheduler
from diffusers.configuration_utils import register_to_config


# Copied from hfgen.process.gaussian.posterior_mean_weights
def posterior_mean_weights(
    *,
    beta: torch.Tensor,
    alpha_bar_prev: torch.Tensor,
    one_minus_alpha_bar: torch.Tensor,
    one_minus_alpha_bar_prev: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights of x_0 and of x_t in the mean of q(x_{t-1} | x_t, x_0). Source: Ho et al. 2020, equation 7."""
    of_x_0 = alpha_bar_prev.sqrt() * beta / one_minus_alpha_bar
    of_x_t = (1 - beta).sqrt() * one_minus_alpha_bar_prev / one_minus_alpha_bar
    return of_x_0, of_x_t


class TrailingDDPMScheduler(DDPMScheduler):
    """`DDPMScheduler` whose last step adds no noise, as z = 0 there (Ho et al. 2020, algorithm 2), whatever the timesteps.

    The stock one adds none at timestep 0 alone; "trailing" timesteps end above it, where the variance is beta (fixed_large) or
    learned.
    """

    def _get_variance(self, t, predicted_variance=None, variance_type=None):
        if self.previous_timestep(t) < 0:
            logarithm = (variance_type or self.config.variance_type) == "learned_range"
            return torch.full_like(self.one, -torch.inf if logarithm else 0.0)
        return super()._get_variance(t, predicted_variance, variance_type)


class PosteriorMeanDDPMScheduler(TrailingDDPMScheduler):
    """`DDPMScheduler` whose network puts out mu_tilde of Ho et al. 2020, equation 7 (their first parameterisation).

    The prediction is turned into x_0 = (mu - c_t x_t) / c_0, with the weights c_0 of x_0 and c_t of x_t in mu_tilde, and then
    sampled as `DDPMScheduler` does with prediction_type "sample". Its own prediction_type is "mu", which the other schedulers of
    diffusers refuse: they do not know it.

    Args: those of `DDPMScheduler`, but prediction_type, which is "mu".
    """

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: list[float] | None = None,
        variance_type: str = "fixed_small",
        clip_sample: bool = True,
        prediction_type: str = "mu",
        clip_sample_range: float = 1.0,
        timestep_spacing: str = "leading",
        steps_offset: int = 0,
    ):
        if prediction_type != "mu":
            raise ValueError(f"prediction_type={prediction_type!r}: this scheduler is for mu; use DDPMScheduler")
        # from_config of another class drops values marked as defaults: it would take mu for its own default, epsilon
        self._internal_dict = type(self._internal_dict)({**self._internal_dict, "_use_default_values": []})
        arguments = {
            "num_train_timesteps": num_train_timesteps,
            "beta_start": beta_start,
            "beta_end": beta_end,
            "beta_schedule": beta_schedule,
            "trained_betas": trained_betas,
            "variance_type": variance_type,
            "clip_sample": clip_sample,
            "clip_sample_range": clip_sample_range,
            "timestep_spacing": timestep_spacing,
            "steps_offset": steps_offset,
        }
        self.of_x_0 = TrailingDDPMScheduler(**arguments, prediction_type="sample")
        self.betas, self.alphas, self.alphas_cumprod = self.of_x_0.betas, self.of_x_0.alphas, self.of_x_0.alphas_cumprod
        self.one, self.init_noise_sigma = self.of_x_0.one, 1.0
        self.custom_timesteps, self.num_inference_steps = False, None
        self.timesteps, self.variance_type = self.of_x_0.timesteps, variance_type

    def set_timesteps(self, num_inference_steps=None, device=None, timesteps=None):
        """As in `DDPMScheduler`."""
        self.of_x_0.set_timesteps(num_inference_steps, device, timesteps)
        super().set_timesteps(num_inference_steps, device, timesteps)

    def step(
        self, model_output: torch.Tensor, timestep: int, sample: torch.Tensor, generator=None, return_dict: bool = True
    ):
        """As in `DDPMScheduler`, from mu_tilde at `timestep`; with a learned variance from (B, 2C, H, W)."""
        mean, rest = model_output[:, : sample.shape[1]], model_output[:, sample.shape[1] :]
        beta, alpha_bar = self.betas[timestep].double(), self.alphas_cumprod[timestep].double()
        before = self.alphas_cumprod[timestep - 1].double() if timestep > 0 else torch.ones_like(alpha_bar)
        of_x_0, of_x_t = posterior_mean_weights(
            beta=beta,
            alpha_bar_prev=before,
            one_minus_alpha_bar=1 - alpha_bar,
            one_minus_alpha_bar_prev=1 - before,
        )
        x_0 = (mean - of_x_t.to(sample) * sample) / of_x_0.to(sample)
        return self.of_x_0.step(torch.cat([x_0, rest], dim=1), timestep, sample, generator, return_dict)
