"""How a diffusion model is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from accelerate.utils import gather
from diffusers import SchedulerMixin

from hfgen.configs.training import TrainingConfig
from hfgen.core.errors import HfgenError
from hfgen.core.memory import check_fits
from hfgen.data.batch import Batch, RandomSpec
from hfgen.data.training_set import TrainingSet
from hfgen.drawing.draw import draw_samples
from hfgen.families.base import PREVIEWS, OneOptimizer, Terms
from hfgen.families.ddpm.flags import DDPMFlags, DiffusionSampling
from hfgen.families.ddpm.sampler import DiffusionSampler
from hfgen.objectives import TIMES, WEIGHTS, DiffusionLoss, ImportanceTimes, UniformTimes, min_snr, on_prediction
from hfgen.pipelines import UnconditionalDiffusionPipeline
from hfgen.schedulers import reverse_process
from hfgen.schedulers.noise import noise_scheduler

BYTES_A_STEP = 30 * 8  # of the tables in float64 that scheduler, process and loss keep
GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, kw_only=True)
class DDPMTask(OneOptimizer):
    """A weighted squared error of the prediction as the loss, samples as previews.

    Attributes:
        shape: (C, H, W) of the images.
        num_inference_steps: of the previews, which are ancestral; None: by the sampler that `DiffusionSampler` takes.
        batch_size: of the previews.
        seen: timesteps and losses of the step's micro-batches so far, for importance times.
    """

    scheduler: SchedulerMixin
    objective: DiffusionLoss
    times: UniformTimes
    shape: tuple[int, ...]
    num_inference_steps: int | None
    batch_size: int
    seed: int
    ylabel: str
    seen: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    terms = ("loss",)

    @property
    def random(self) -> RandomSpec:
        """The noise, and a number for t."""
        return RandomSpec(normal={"noise": self.shape}, uniform={"time": ()})

    @property
    def states(self) -> Mapping[str, Any]:
        """What importance times have learnt."""
        return {"times": self.times} if isinstance(self.times, ImportanceTimes) else {}

    def to(self, device: torch.device) -> None:
        """The tables of the process lie on the device."""
        self.objective.to(device)
        self.times.to(device)

    def loss(self, model: Callable, batch: Batch, optimizer: str) -> Terms:
        """w(t) times the squared error at t, weighted so that its mean is that of uniform t."""
        timesteps, weights = self.times.sample(batch.random["time"], batch.random["stratified"])
        losses = self._losses(model, batch, timesteps, self.condition(batch))
        if self.states:
            self.seen.append((gather(timesteps), gather(losses.detach())))
        return {"loss": weights * losses}

    def condition(self, batch: Batch) -> Mapping[str, torch.Tensor]:
        """What the network is told in training."""
        return {}

    def held_out_condition(self, batch: Batch) -> Mapping[str, torch.Tensor]:
        """What it is told of held-out images."""
        return {}

    def end_step(self) -> None:
        """Let the times learn from the whole batch at once: its micro-batches draw from the same distribution."""
        if self.seen:
            self.times.update(*map(torch.cat, zip(*self.seen, strict=True)))
            self.seen.clear()

    def held_out_loss(self, model: Callable, batch: Batch) -> Terms:
        """The loss at times spread evenly over the images, whatever the batches."""
        uniform = ((batch.rows + 0.5) * GOLDEN_RATIO % 1).to(batch.random["noise"])
        timesteps, _ = UniformTimes(self.times.num_steps).sample(uniform, uniform)
        return {"loss": self._losses(model, batch, timesteps, self.held_out_condition(batch))}

    def _losses(self, model, batch: Batch, timesteps: torch.Tensor, cond: Mapping[str, torch.Tensor]) -> torch.Tensor:
        noise = self.noise(batch)
        x_t = self.objective.add_noise(batch.data, noise, timesteps)
        return self.objective(self.predict(model, x_t, timesteps, cond), batch.data, noise, timesteps)

    def noise(self, batch: Batch) -> torch.Tensor:
        """What is added to the data."""
        return batch.random["noise"]

    def predict(
        self, model: Callable, x_t: torch.Tensor, timesteps: torch.Tensor, cond: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """The network's output, float32, of the shape of the data but for channels of a variance."""
        return model(x_t, timesteps, **cond, return_dict=False)[0].float()

    def pipeline(self, module: torch.nn.Module) -> UnconditionalDiffusionPipeline:
        """The network with its scheduler."""
        return UnconditionalDiffusionPipeline(module, self.scheduler)

    def preview_sampler(self, module: torch.nn.Module) -> DiffusionSampler:
        """What draws the previews."""
        return DiffusionSampler(self.pipeline(module), DiffusionSampling(**self.preview_options))

    @property
    def preview_options(self) -> dict[str, Any]:
        """The sampler's, where the flags name steps."""
        return {} if self.num_inference_steps is None else {"scheduler": "ddpm", "steps": self.num_inference_steps}

    def preview(self, module: torch.nn.Module) -> torch.Tensor:
        """64 samples, those that `hfgen sample` draws of the same seed."""
        samples = draw_samples(
            self.preview_sampler(module),
            device=module.device,
            num_images=PREVIEWS,
            seed=self.seed,
            batch_size=self.batch_size,
            show_progress=False,
        )
        return samples.images


def task_settings(
    config: TrainingConfig, images: TrainingSet, scheduler: SchedulerMixin | None = None
) -> dict[str, Any]:
    """The attributes of a `DDPMTask`; of a process that is there already by its scheduler."""
    model, optimization = config.model, config.optimization
    scheduler = scheduler or make_scheduler(model)
    return {
        "scheduler": scheduler,
        "objective": make_objective(model, scheduler),
        "times": TIMES[model.time_sampling](model.ddpm_num_steps),
        "shape": images.shape,
        "num_inference_steps": model.ddpm_num_inference_steps,
        "batch_size": optimization.eval_batch_size,
        "seed": optimization.seed,
        "ylabel": loss_name(model),
    }


def make_scheduler(model: DDPMFlags) -> SchedulerMixin:
    """The scheduler of the flags, none of which is left open; `HfgenError` when T admits no such betas or has fewer steps than the samples."""
    if model.ddpm_num_inference_steps is not None and model.ddpm_num_inference_steps > model.ddpm_num_steps:
        raise HfgenError(
            f"ddpm_num_inference_steps={model.ddpm_num_inference_steps} is more than ddpm_num_steps={model.ddpm_num_steps}: "
            "lower it"
        )
    check_fits(model.ddpm_num_steps * BYTES_A_STEP, f"ddpm_num_steps={model.ddpm_num_steps}", "use fewer steps")
    try:
        return noise_scheduler(
            model.ddpm_beta_schedule,
            model.ddpm_num_steps,
            model.prediction_type,
            model.ddpm_variance_type,
            model.rescale_betas_zero_snr,
        )
    except ValueError as error:
        raise HfgenError(f"ddpm_num_steps: {error}") from error


def make_objective(model: DDPMFlags, scheduler: SchedulerMixin) -> DiffusionLoss:
    """The loss of the flags; `HfgenError` for a weighting that the schedule has none of."""
    process = reverse_process(scheduler, model.ddpm_variance_type)
    weigh = (
        partial(min_snr, gamma=model.snr_gamma) if model.loss_weighting == "min_snr" else WEIGHTS[model.loss_weighting]
    )
    weight = weigh(process)
    if not on_prediction(process, weight).isfinite().all():
        raise HfgenError(
            f"loss_weighting={model.loss_weighting!r} is infinite for this schedule: use simple, or leave rescale_betas_zero_snr out"
        )
    return DiffusionLoss(process, weight, model.variance_objective)


def loss_name(model: DDPMFlags) -> str:
    """What the curves and the card call the loss."""
    if model.ddpm_variance_type == "learned_range" and model.variance_objective == "vlb":
        return "L_vlb, nats per pixel value"
    predicted = model.prediction_type.removesuffix("_prediction")
    name = f"squared error of {predicted}, weighting {model.loss_weighting}, per pixel"
    if model.prediction_type == "epsilon" and model.loss_weighting == "simple":
        name = "L_simple per pixel"
    return f"{name} + 0.001 L_vlb" if model.ddpm_variance_type == "learned_range" else name
