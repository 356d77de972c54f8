"""The noise schedules that models are trained with."""

from __future__ import annotations

from diffusers import DDPMScheduler, SchedulerMixin

from hfgen.schedulers.scheduling_hfgen_linear_ddpm import HO_BETA_END, HO_BETA_START, HO_STEPS, LinearDDPMScheduler
from hfgen.schedulers.scheduling_hfgen_posterior_mean import PosteriorMeanDDPMScheduler

ROMBACH_ENDS = (0.00085, 0.012)


def noise_scheduler(
    beta_schedule: str = "linear",
    num_train_timesteps: int = HO_STEPS,
    prediction_type: str = "epsilon",
    variance_type: str = "fixed_small",
    rescale_betas_zero_snr: bool = False,
) -> SchedulerMixin:
    """A scheduler for training and ancestral sampling.

    "linear" has the betas of Ho et al. 2020, times 1000/T for another T; "squaredcos_cap_v2" is the cosine schedule of Nichol &
    Dhariwal 2021, the same function of t/T for any T; "sigmoid" runs along a sigmoid from -6 to 6 between the ends of the
    linear one; of "scaled_linear" the roots of the betas are linear, from that of 0.00085 to that of 0.012, times 1000/T too (the
    code of Rombach et al. 2022). `rescale_betas_zero_snr` shifts them so that alpha_bar_T = 0 (Lin et al. 2023, algorithm 1).

    It is a `DDPMScheduler`, but for prediction_type "mu" a `PosteriorMeanDDPMScheduler`.

    Raises `ValueError` for betas outside (0, 1), and for zero terminal SNR with epsilon or mu, which say nothing about x_0 then.
    """
    if rescale_betas_zero_snr and prediction_type not in ("v_prediction", "sample"):
        raise ValueError(
            f"rescale_betas_zero_snr with prediction_type={prediction_type!r}: x_T is noise alone and the prediction says "
            "nothing about x_0; use v_prediction or sample"
        )
    if beta_schedule == "linear" and prediction_type != "mu" and not rescale_betas_zero_snr:
        return LinearDDPMScheduler(num_train_timesteps, variance_type=variance_type, prediction_type=prediction_type)
    scale = 1 if beta_schedule == "squaredcos_cap_v2" else HO_STEPS / num_train_timesteps  # the cosine has no ends
    start, end = ROMBACH_ENDS if beta_schedule == "scaled_linear" else (HO_BETA_START, HO_BETA_END)
    if end * scale >= 1:
        raise ValueError(
            f"num_train_timesteps={num_train_timesteps}: betas leave (0, 1); use more than {HO_STEPS * end:.0f} steps, or the cosine"
        )
    arguments = {
        "num_train_timesteps": num_train_timesteps,
        "beta_schedule": beta_schedule,
        "beta_start": start * scale,
        "beta_end": end * scale,
        "variance_type": variance_type,
    }
    if prediction_type == "mu":
        return PosteriorMeanDDPMScheduler(**arguments)
    return DDPMScheduler(**arguments, prediction_type=prediction_type, rescale_betas_zero_snr=rescale_betas_zero_snr)
