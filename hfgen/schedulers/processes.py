"""The process that a scheduler of diffusers runs."""

from __future__ import annotations

import torch
from diffusers import SchedulerMixin

from hfgen.core.errors import HfgenError
from hfgen.process import FIXED, LEARNED, PARAMETERIZATIONS, GaussianProcess, ReverseProcess
from hfgen.schedulers.own import goes_by_betas

OTHER_PROCESSES = {
    "FlowMatch": "a flow between noise and data",
    "ScoreSdeVe": "a variance-exploding SDE",
    "KarrasVe": "a variance-exploding process",
    "ScoreSdeVp": "an SDE in continuous time",
    "EDM": "the noise levels of Karras et al. 2022, with no betas",
    "CM": "a consistency model",
    "VQDiffusion": "a process on discrete tokens",
    "DDPMWuerstchen": "a process in continuous time",
}


def reverse_process(scheduler: SchedulerMixin, variance_type: str | None = None) -> ReverseProcess:
    """The process of a DDPM-like scheduler, by its config and its betas, on the CPU.

    `variance_type` overrides the config's; a sampler without one, such as DDIM, has fixed_small.

    Raises `HfgenError` for a scheduler whose process is not a DDPM's, and for a prediction or variance not known here.
    """
    name, config = type(scheduler).__name__, scheduler.config
    betas = _betas(scheduler)
    prediction = config.get("prediction_type") or "epsilon"
    variance = variance_type or config.get("variance_type") or "fixed_small"
    if prediction not in PARAMETERIZATIONS:
        raise HfgenError(f"{name} has prediction_type={prediction!r}: known are {', '.join(PARAMETERIZATIONS)}")
    if variance not in FIXED and variance not in LEARNED:
        raise HfgenError(f"{name} has variance_type={variance!r}: known are {', '.join((*FIXED, *LEARNED))}")
    if prediction == "epsilon" and bool((betas >= 1).any()):
        raise HfgenError(
            f"{name} has beta = 1 at the last step, where epsilon says nothing about x_0: "
            "zero terminal SNR needs prediction_type sample or v_prediction"
        )
    try:
        forward = GaussianProcess.from_betas(betas)
    except ValueError as error:
        raise HfgenError(f"{name} has {error}") from error
    return ReverseProcess(forward=forward, parameterization=PARAMETERIZATIONS[prediction], variance_type=variance)


def _betas(scheduler: SchedulerMixin) -> torch.Tensor:
    """Float64 (T,) on the CPU; `HfgenError` for a scheduler that has none, or does not go by them."""
    name, config = type(scheduler).__name__, scheduler.config
    if not goes_by_betas(scheduler):
        kind = next((words for start, words in OTHER_PROCESSES.items() if name.startswith(start)), "no betas")
        kind = OTHER_PROCESSES["FlowMatch"] if config.get("use_flow_sigmas") else kind
        kind = "times that are no steps" if "timestep_type" in config else kind
        raise HfgenError(
            f"{name} does not run a DDPM's process ({kind}): the bound is that of a chain with betas; "
            "pass a model with a DDPMScheduler or one that converts to it"
        )
    # those of the config keep what float32 would bend: log SNR by up to 0.18 where gamma is -13
    trained = config.get("trained_betas")
    betas = scheduler.betas.double().cpu() if trained is None else torch.as_tensor(trained, dtype=torch.float64)
    # CogVideoX's shift alpha_bar away from its betas
    if not torch.allclose(scheduler.alphas_cumprod.double().cpu(), (1 - betas).cumprod(0), rtol=1e-3, atol=1e-6):
        raise HfgenError(
            f"{name} does not run a DDPM's process: its alphas_cumprod are not those of its betas; "
            "pass a model with a DDPMScheduler"
        )
    return betas
