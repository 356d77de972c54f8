"""Samplers by name: the scheduler a model was trained with, turned into another of diffusers with the same betas."""

from __future__ import annotations

import inspect
import math

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    SchedulerMixin,
    UniPCMultistepScheduler,
)

from hfgen.core.errors import HfgenError, one_line
from hfgen.schedulers.names import SAMPLER_NAMES
from hfgen.schedulers.own import SOLVER_STEPS, draws_itself, goes_by_betas
from hfgen.schedulers.scheduling_hfgen_posterior_mean import TrailingDDPMScheduler

# timestep spacings of table 2 in Lin et al. 2023 that start at T - 1, where x_t is noise, for any number of steps
TRAILING, LINSPACE = {"timestep_spacing": "trailing"}, {"timestep_spacing": "linspace"}
SAMPLERS = {
    "ddpm": (TrailingDDPMScheduler, TRAILING),
    "ddim": (DDIMScheduler, TRAILING),
    "dpmsolver++": (
        DPMSolverMultistepScheduler,
        LINSPACE | {"algorithm_type": "dpmsolver++", "solver_type": "midpoint"},
    ),
    "sde-dpmsolver++": (
        DPMSolverMultistepScheduler,
        LINSPACE | {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"},
    ),
    "unipc": (UniPCMultistepScheduler, LINSPACE),
    "euler": (EulerDiscreteScheduler, TRAILING),
    "heun": (HeunDiscreteScheduler, TRAILING),
}
# half the log of the least SNR that a solver starts from, as diffusers has it for the cosine, whose SNR at T is nearly 0
COSINE_LAMBDA_MIN = -5.1
SOLVERS = ("dpmsolver++", "sde-dpmsolver++", "unipc")


def make_sampler(name: str, scheduler: SchedulerMixin) -> SchedulerMixin:
    """A new scheduler that samples from a model trained with `scheduler`; betas and prediction type are kept.

    "ddpm" is ancestral sampling (Ho et al. 2020) and keeps the class of a `DDPMScheduler`; "ddim" is Song et al.
    2021, "dpmsolver++" and "sde-dpmsolver++", which adds fresh noise at every step, Lu et al. 2022, "unipc" Zhao et al.
    2023, "euler" and "heun" Karras et al. 2022.

    Raises `HfgenError` for an unknown name, for a scheduler without betas, and for betas that the new one cannot have.
    """
    if name not in SAMPLER_NAMES:
        raise HfgenError(f"unknown scheduler {name!r}: choose one of {', '.join(SAMPLER_NAMES)}")
    if not goes_by_betas(scheduler):
        raise HfgenError(
            f"{type(scheduler).__name__} has no betas to go by and cannot become {name!r}: leave --scheduler out, or use a "
            "model trained with a DDPMScheduler"
        )
    cls, own = SAMPLERS[name]
    cls = type(scheduler) if isinstance(scheduler, cls) else cls
    # without the underscored keys: from_config would drop the values that _use_default_values lists
    config = {k: v for k, v in scheduler.config.items() if not k.startswith("_")} | own
    if config.get("prediction_type") == "mu" and name != "ddpm":
        raise HfgenError(f"this model predicts mu, which {cls.__name__} does not know: use --scheduler ddpm")
    cosine = config["beta_schedule"] == "squaredcos_cap_v2"
    if name == "unipc" and cosine and config.get("prediction_type") == "epsilon":
        raise HfgenError(
            "unipc diverges for epsilon on a cosine schedule, whose SNR at T is nearly 0: use dpmsolver++, ddim or ddpm"
        )
    if name != "ddpm" and config.get("variance_type") in ("learned", "learned_range"):
        config.pop("variance_type")  # it concerns ancestral steps alone
    if cosine and "lambda_min_clipped" in inspect.signature(cls).parameters:
        config["lambda_min_clipped"] = COSINE_LAMBDA_MIN
    sampler = _made(cls, config, scheduler)
    if not _same_noise(sampler, scheduler):
        raise HfgenError(f"{cls.__name__} cannot keep the betas of {type(scheduler).__name__}: use --scheduler ddpm")
    return sampler


def _made(cls: type, config: dict, scheduler: SchedulerMixin) -> SchedulerMixin:
    try:
        try:
            return cls.from_config(config)
        except NotImplementedError:  # of this kind of betas it has no formula
            return cls.from_config({**config, "beta_schedule": "linear", "trained_betas": scheduler.betas.tolist()})
    except Exception as error:  # of a value that it does not know a constructor says anything
        raise HfgenError(
            f"{type(scheduler).__name__} cannot become a {cls.__name__} ({one_line(error, 200)}): mend "
            "scheduler_config.json, or choose another --scheduler"
        ) from error


def _same_noise(sampler, scheduler) -> bool:
    """Whether both have the same alpha_bar, but for rounding and the least SNR of solvers, and no noise level is infinite."""
    ours, given = sampler.alphas_cumprod.double(), scheduler.alphas_cumprod.double()
    finite = not hasattr(sampler, "sigmas") or sampler.sigmas.isfinite().all()
    return bool(finite and torch.allclose(ours, given, rtol=1e-4, atol=1e-7))


def default_sampler(scheduler: SchedulerMixin) -> str | None:
    """The sampler of a model trained with `scheduler` when none is asked for: what benchmarks/sampling.py found best.

    Ancestral sampling for a model that predicts mu, which others do not know, and for a T of few steps; None for a scheduler
    that only draws itself, see `own_sampler`.
    """
    if draws_itself(scheduler):
        return None
    config = scheduler.config
    few = config.num_train_timesteps <= SOLVER_STEPS
    return "ddpm" if few or config.get("prediction_type") == "mu" else "sde-dpmsolver++"


def default_steps(name: str, num_train_timesteps: int) -> int:
    """Denoising steps that give good images: all T for "ddpm", 20 for the second-order solvers, otherwise 50.

    For a small T half of it for the solvers, which cannot take all, and otherwise as many as have strides of whole numbers.
    """
    T = num_train_timesteps
    if name == "ddpm":
        return T
    return min(SOLVER_STEPS, math.ceil(T / 2)) if name in SOLVERS else T // math.ceil(T / 50)
