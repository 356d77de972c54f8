"""Schedulers of diffusers that draw images by rules of their own, not by the betas of a DDPM."""

from __future__ import annotations

import copy

import torch
from diffusers import SchedulerMixin, ScoreSdeVeScheduler
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from diffusers.utils.torch_utils import randn_tensor

from hfgen.core.errors import HfgenError

Generators = torch.Generator | list[torch.Generator] | None

# their steps where none are asked for; None: as many as the config says
OWN_STEPS: dict[str, int | None] = {
    "FlowMatchEulerDiscreteScheduler": 20,
    "FlowMatchHeunDiscreteScheduler": 20,
    "FlowMatchLCMScheduler": 4,
    "EDMEulerScheduler": 20,
    "EDMDPMSolverMultistepScheduler": 20,
    "ScoreSdeVeScheduler": None,
    "CMStochasticIterativeScheduler": 1,
    "LCMScheduler": 4,
    "TCDScheduler": 4,
    "CogVideoXDDIMScheduler": 50,
    "IPNDMScheduler": 50,
}
SOLVER_STEPS = 20


def goes_by_betas(scheduler: SchedulerMixin) -> bool:
    """Whether its noise levels are those of betas, and its times the steps 0..T-1: it then converts to others of that kind."""
    config = scheduler.config
    return (
        "beta_schedule" in config
        and hasattr(scheduler, "betas")
        and not config.get("use_flow_sigmas")
        and config.get("timestep_type", "discrete") == "discrete"
    )


def draws_itself(scheduler: SchedulerMixin) -> bool:
    """Whether only the scheduler itself draws what its model was made for."""
    return type(scheduler).__name__ in OWN_STEPS or not goes_by_betas(scheduler)


def own_sampler(scheduler: SchedulerMixin) -> SchedulerMixin:
    """A copy that samples by set_timesteps, scale_model_input and step; `HfgenError` for one whose rules are not known here."""
    name = type(scheduler).__name__
    if isinstance(scheduler, ScoreSdeVeScheduler):
        return PredictorCorrectorScheduler(**{k: v for k, v in scheduler.config.items() if not k.startswith("_")})
    if name not in OWN_STEPS and "beta_schedule" not in scheduler.config:
        raise HfgenError(
            f"hfgen does not know how a UNet2DModel is sampled by {name}: it samples by schedulers with betas, such as "
            f"DDPMScheduler, and by {', '.join(OWN_STEPS)}"
        )
    return copy.deepcopy(scheduler)


def own_steps(scheduler: SchedulerMixin) -> int:
    """The steps where none are asked for: at most as many as it has."""
    T = scheduler.config.num_train_timesteps
    return min(OWN_STEPS.get(type(scheduler).__name__, SOLVER_STEPS) or T, T)


class PredictorCorrectorScheduler(SchedulerMixin, ConfigMixin):
    """The sampling of a `ScoreSdeVeScheduler` behind the methods that other schedulers have.

    Every step is `correct_steps` corrections and a prediction, an evaluation of the network each: `timesteps` has the noise level
    sigma once for each evaluation, and `step` takes them in turn. A correction's step size is that of each image, so that an
    image does not depend on others of its batch. Data lie in [0, 1], and the last step, which adds no noise, gives [-1, 1].

    Args: those of `ScoreSdeVeScheduler`.

    Source: Song et al. 2021, Score-based generative modeling through stochastic differential equations, algorithm 2.
    """

    order = 1

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 2000,
        snr: float = 0.15,
        sigma_min: float = 0.01,
        sigma_max: float = 1348.0,
        sampling_eps: float = 1e-5,
        correct_steps: int = 1,
    ):
        self.sde = ScoreSdeVeScheduler(num_train_timesteps, snr, sigma_min, sigma_max, sampling_eps, correct_steps)
        self.init_noise_sigma = sigma_max
        self.timesteps = self.sde.timesteps
        self.evaluations = 0

    def set_timesteps(self, num_inference_steps: int, device: torch.device | None = None) -> None:
        """Set the noise levels of the evaluations, and begin anew."""
        self.sde.set_timesteps(num_inference_steps)
        self.sde.set_sigmas(num_inference_steps)
        self.timesteps = self.sde.sigmas.repeat_interleave(1 + self.config.correct_steps).to(device)
        self.evaluations = 0

    def scale_model_input(self, sample: torch.Tensor, timestep: torch.Tensor | None = None) -> torch.Tensor:
        """The sample as it is."""
        return sample

    def step(
        self, model_output: torch.Tensor, timestep: torch.Tensor, sample: torch.Tensor, generator: Generators = None
    ) -> SchedulerOutput:
        """A correction or a prediction, in turn."""
        place, turn = divmod(self.evaluations, 1 + self.config.correct_steps)
        self.evaluations += 1
        if turn < self.config.correct_steps:
            return SchedulerOutput(prev_sample=self._corrected(model_output, sample, generator))
        step = self.sde.step_pred(model_output, self.sde.timesteps[place], sample, generator)
        last = place + 1 == len(self.sde.timesteps)
        return SchedulerOutput(prev_sample=(step.prev_sample_mean - 0.5) / 0.5 if last else step.prev_sample)

    def _corrected(self, score: torch.Tensor, sample: torch.Tensor, generator: Generators) -> torch.Tensor:
        noise = randn_tensor(sample.shape, generator=generator, device=sample.device, dtype=sample.dtype)
        noise_norm, score_norm = (x.flatten(1).norm(dim=1).view(-1, 1, 1, 1) for x in (noise, score))
        size = 2 * (self.config.snr * noise_norm / score_norm) ** 2
        return sample + size * score + (2 * size).sqrt() * noise
