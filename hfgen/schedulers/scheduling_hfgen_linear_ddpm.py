"""The linear noise schedule of Ho et al. (2020) for any number of steps, with its forward process in float64."""

from __future__ import annotations

import torch
from diffusers.configuration_utils import register_to_config

from hfgen.process import GaussianProcess, Velocity
from hfgen.schedulers.scheduling_hfgen_posterior_mean import TrailingDDPMScheduler

HO_STEPS = 1000
HO_BETA_START = 1e-4
HO_BETA_END = 0.02


class LinearDDPMScheduler(TrailingDDPMScheduler):
    """`DDPMScheduler` with linear betas, 1e-4 to 0.02 at T = 1000 and scaled by 1000/T for another T.

    The scaling keeps alpha_bar_T near 0 whatever T is. API and config are `DDPMScheduler`'s; the betas that result
    stand in the config, so that every scheduler made by `from_config(scheduler.config)` has the same ones.
    Timesteps count from 0 as everywhere in diffusers: `timestep` i is the papers' t = i + 1.

    The forward process is computed in float64, once. `alphas_cumprod` is float64 too: the inherited `step` then takes
    its coefficients in float64 and loses nothing to the cancellation in 1 - alpha_bar_t at small t.

    Args:
        num_train_timesteps: T.
        beta_start, beta_end: beta_1 and beta_T; by default those of Ho et al. times 1000/T.
        variance_type: `"fixed_small"` (beta_tilde, optimal for a single x_0), `"fixed_large"` (beta, optimal for
            x_0 ~ N(0, I)), Ho et al. section 3.2, or `"learned_range"`, between them by the network (Nichol & Dhariwal
            2021, equation 15).
        clip_sample: clip the predicted x_0 to [-clip_sample_range, clip_sample_range]: for sampling, never for bounds.
        prediction_type, thresholding, dynamic_thresholding_ratio, clip_sample_range, sample_max_value,
            timestep_spacing, steps_offset: as in `DDPMScheduler`.

    Attributes:
        process: the forward process, a `GaussianProcess`.
        beta, alpha_bar, alpha_bar_prev, snr, beta_tilde: float64 tensors of shape (T,); entry i belongs to t = i + 1.
            `beta_tilde[0]` is 0 as alpha_bar_0 = 1.

    Raises:
        ValueError: T < 1, or betas outside (0, 1), as the scaled ones are for T <= 20.

    Source: Ho, Jain, Abbeel, Denoising Diffusion Probabilistic Models (2020), section 4 and equations 4, 6, 7.
    """

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = HO_STEPS,
        beta_start: float | None = None,
        beta_end: float | None = None,
        beta_schedule: str = "linear",
        variance_type: str = "fixed_small",
        clip_sample: bool = True,
        prediction_type: str = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: str = "leading",
        steps_offset: int = 0,
    ):
        if num_train_timesteps < 1:
            raise ValueError(f"num_train_timesteps={num_train_timesteps}: a diffusion has at least 1 step")
        if beta_schedule != "linear":
            raise ValueError(f"beta_schedule={beta_schedule!r}: this schedule is linear; use diffusers' DDPMScheduler")
        if variance_type not in ("fixed_small", "fixed_large", "learned_range"):
            raise ValueError(
                f"variance_type={variance_type!r}: choose fixed_small (beta_tilde), fixed_large (beta) or learned_range"
            )
        scale = HO_STEPS / num_train_timesteps
        beta_start = HO_BETA_START * scale if beta_start is None else beta_start
        beta_end = HO_BETA_END * scale if beta_end is None else beta_end
        if not (0 < beta_start < 1 and 0 < beta_end < 1):
            raise ValueError(
                f"num_train_timesteps={num_train_timesteps}: linear betas from {beta_start:g} to {beta_end:g} leave (0, 1); "
                "use more than 20 steps, or pass beta_start and beta_end"
            )
        self.register_to_config(beta_start=beta_start, beta_end=beta_end)
        self._make_all_values_explicit()
        self._set_forward_process(torch.linspace(beta_start, beta_end, num_train_timesteps, dtype=torch.float64))
        self.one = torch.tensor(1.0, dtype=torch.float64)
        self.init_noise_sigma = 1.0
        self.custom_timesteps = False
        self.num_inference_steps = None
        self.timesteps = torch.arange(num_train_timesteps - 1, -1, -1)
        self.variance_type = variance_type

    def _make_all_values_explicit(self) -> None:
        """`from_config` of another class drops values marked as defaults: they are not that class's defaults."""
        self._internal_dict = type(self._internal_dict)({**self._internal_dict, "_use_default_values": []})

    def _set_forward_process(self, betas: torch.Tensor) -> None:
        process = GaussianProcess.from_betas(betas)
        self.process = process
        self.beta = self.betas = process.beta
        self.alphas = process.alpha
        self.alpha_bar = self.alphas_cumprod = process.alpha_bar
        self.alpha_bar_prev, self.beta_tilde, self.snr = process.alpha_bar_prev, process.beta_tilde, process.snr

    def add_noise(self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps (Ho et al., equation 4).

        `original_samples` and `noise` are (B, C, H, W), `timesteps` (B,) counted from 0.
        """
        return self.process.add_noise(original_samples, noise, timesteps)

    def get_velocity(self, sample: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0 (Salimans & Ho 2022); shapes as in `add_noise`."""
        return Velocity().target(self.process, sample, noise, timesteps)

    def posterior(
        self, x_0: torch.Tensor, x_t: torch.Tensor, timesteps: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance of q(x_{t-1} | x_t, x_0) (Ho et al., equations 6 and 7).

        `x_0` and `x_t` are (B, C, H, W), `timesteps` (B,) counted from 0. Returns the mean mu_tilde, (B, C, H, W),
        and the variance beta_tilde, (B, 1, 1, 1), in the dtype of `x_t`; at timestep 0 they are x_0 and 0.
        """
        return self.process.posterior(x_0, x_t, timesteps)
