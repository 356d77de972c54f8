"""Train a DDPM: from parsed flags to a pipeline on disk."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from accelerate.utils import gather, set_seed
from diffusers import SchedulerMixin

from hfgen.data.order import Stream, seeded
from hfgen.errors import HfgenError
from hfgen.history import HISTORY_FILE, plot_history, read_history
from hfgen.images import image_grid, to_uint8
from hfgen.likelihood import DiffusionProcess
from hfgen.models import build_unet, load_unet_config
from hfgen.objectives.diffusion import DiffusionLoss
from hfgen.objectives.times import TIMES, ImportanceTimes, UniformTimes
from hfgen.objectives.weights import WEIGHTS, min_snr, on_prediction
from hfgen.pipelines import ClassConditionalDDPMPipeline, UnconditionalDiffusionPipeline
from hfgen.schedulers.noise import noise_scheduler
from hfgen.trainer.config import DDPMConfig, DiffusionArguments
from hfgen.trainer.output import check_output_dir, save_into
from hfgen.trainer.run import SAMPLES, hub_repository, run_training
from hfgen.trainer.setup import make_accelerator
from hfgen.trainer.training_set import TrainingSet, load_training_set

GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class DDPMTask:
    """A weighted squared error of the prediction as the loss, ancestral samples as the grid, a pipeline repository as the result.

    `class_names` are those of a class-conditional model, None for another; `class_dropout` is the share of rows whose class
    is withheld in training; `seen` the timesteps and losses of the step's micro-batches so far.
    """

    scheduler: SchedulerMixin
    objective: DiffusionLoss
    times: UniformTimes
    noise_shape: tuple[int, int, int]
    num_inference_steps: int
    batch_size: int
    seed: int
    ylabel: str = "L_simple per pixel"
    class_names: list[str] | None = None
    class_dropout: float = 0.1
    seen: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    terms = ("loss",)

    @property
    def uniforms(self) -> int:
        """One for t, and one that decides whether the class is withheld."""
        return 1 if self.class_names is None else 2

    @property
    def states(self) -> tuple:
        return (self.times,) if isinstance(self.times, ImportanceTimes) else ()

    def loss(self, model, batch):
        timesteps, weights = self.times.sample(batch.uniform[:, 0], batch.stratified)
        labels = None
        if self.class_names is not None:
            withheld = batch.uniform[:, 1] < self.class_dropout
            labels = torch.where(withheld, len(self.class_names), batch.labels)
        losses = self._losses(model, batch, timesteps, labels)
        if self.states:
            self.seen.append((gather(timesteps), gather(losses.detach())))
        return {"loss": weights * losses}

    def end_step(self):
        """Let the times learn from the whole batch at once: its micro-batches draw from the same distribution."""
        if self.seen:
            self.times.update(*map(torch.cat, zip(*self.seen, strict=True)))
            self.seen.clear()

    def held_out_loss(self, model, batch):
        """The loss at times spread evenly over the images, whatever the batches, with the classes of the images."""
        uniform = ((batch.rows + 0.5) * GOLDEN_RATIO % 1).to(batch.noise)
        timesteps, _ = UniformTimes(self.objective.process.num_steps).sample(uniform, uniform)
        labels = None if self.class_names is None else batch.labels
        return {"loss": self._losses(model, batch, timesteps, labels)}

    def _losses(self, model, batch, timesteps, labels):
        x_t = self.objective.noisy(batch.x_0, batch.noise, timesteps)
        output = model(x_t, timesteps, class_labels=labels, return_dict=False)[0].float()
        return self.objective(output, batch.x_0, batch.noise, timesteps)

    def save_samples(self, model, path: Path):
        """64 images; of a class-conditional model the classes in turn."""
        pipeline = self._pipeline(model)
        pipeline.set_progress_bar_config(leave=False, desc="samples")
        generator = seeded(model.device, self.seed, Stream.SAMPLES)
        places = [range(i, min(i + self.batch_size, SAMPLES)) for i in range(0, SAMPLES, self.batch_size)]
        batches = [
            pipeline(
                self._wanted(part),
                generator=generator,
                num_inference_steps=self.num_inference_steps,
                output_type="pt",
            ).images
            for part in places
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        image_grid(to_uint8(torch.cat(batches) * 2 - 1).cpu()).save(path)

    def _wanted(self, part: range):
        """The first argument of the pipeline: how many images, or of which classes."""
        return len(part) if self.class_names is None else [i % len(self.class_names) for i in part]

    def _pipeline(self, model):
        if self.class_names is None:
            return UnconditionalDiffusionPipeline(model, self.scheduler)
        return ClassConditionalDDPMPipeline(model, self.scheduler, self.class_names)

    def save_pipeline(self, model, output_dir: Path):
        pipeline = self._pipeline(model)
        save_into(output_dir, lambda folder: pipeline.save_pretrained(folder, safe_serialization=True))

    def save_figures(self, output_dir: Path, images: TrainingSet, device: torch.device):
        """The curves, and the samples after the last step, if there are any."""
        plot_history(read_history(output_dir / HISTORY_FILE), output_dir / "loss.png", self.ylabel)
        grids = sorted((output_dir / "samples").glob("step-*.png"))
        if grids:
            shutil.copyfile(grids[-1], output_dir / "samples.png")


def train_ddpm(config: DDPMConfig) -> Path:
    """Train from a configuration; returns the output folder, which holds a stock pipeline repository.

    Nothing is written before the data, the model and the output folder have been checked.

    Raises `HfgenError` for input that cannot be used, as the trainers' flags describe.
    """
    data, model, optimization, run = config.data, config.model, config.optimization, config.run
    check_output_dir(run)
    scheduler = make_scheduler(model)
    unet_config = load_unet_config(model.model_config_name_or_path)
    accelerator = make_accelerator(optimization, run)
    repo = hub_repository(config.hub, run, accelerator)
    images = load_training_set(
        data, unet_config.get("in_channels"), unet_config.get("sample_size"), optimization.seed, accelerator
    )
    class_names = check_classes(images) if model.class_conditional else None
    set_seed(optimization.seed)
    unet = build_unet(
        unet_config,
        images.resolution,
        images.channels,
        model.ddpm_num_steps,
        learned_variance=model.ddpm_variance_type == "learned_range",
        num_classes=None if class_names is None else len(class_names),
    )
    objective = make_objective(model, scheduler)
    task = DDPMTask(
        scheduler,
        objective,
        TIMES[model.time_sampling](model.ddpm_num_steps),
        images.shape,
        model.ddpm_num_inference_steps,
        optimization.eval_batch_size,
        optimization.seed,
        loss_name(model),
        class_names,
        model.class_dropout,
    )
    return run_training(config, accelerator, images, unet, task, repo)


def make_scheduler(model: DiffusionArguments) -> SchedulerMixin:
    """The scheduler of the flags; `HfgenError` when T admits no such betas or has fewer steps than the samples."""
    if model.ddpm_num_inference_steps > model.ddpm_num_steps:
        raise HfgenError(
            f"ddpm_num_inference_steps={model.ddpm_num_inference_steps} is more than ddpm_num_steps={model.ddpm_num_steps}: "
            "lower it"
        )
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


def make_objective(model: DiffusionArguments, scheduler: SchedulerMixin) -> DiffusionLoss:
    """The loss of the flags; `HfgenError` for a weighting that the schedule has none of."""
    process = DiffusionProcess.from_scheduler(scheduler)
    weigh = (
        partial(min_snr, gamma=model.snr_gamma) if model.loss_weighting == "min_snr" else WEIGHTS[model.loss_weighting]
    )
    weight = weigh(process)
    if not on_prediction(process, weight).isfinite().all():
        raise HfgenError(
            f"loss_weighting={model.loss_weighting!r} is infinite for this schedule: use simple, or leave rescale_betas_zero_snr out"
        )
    return DiffusionLoss(process, weight, model.variance_objective)


def loss_name(model: DiffusionArguments) -> str:
    """What the curves and the card call the loss."""
    if model.ddpm_variance_type == "learned_range" and model.variance_objective == "vlb":
        return "L_vlb, nats per pixel value"
    predicted = model.prediction_type.removesuffix("_prediction")
    name = f"squared error of {predicted}, weighting {model.loss_weighting}, per pixel"
    if model.prediction_type == "epsilon" and model.loss_weighting == "simple":
        name = "L_simple per pixel"
    return f"{name} + 0.001 L_vlb" if model.ddpm_variance_type == "learned_range" else name


def check_classes(images: TrainingSet) -> list[str]:
    """Names of the classes; `HfgenError` when training or held-out images have none."""
    if images.train_labels is None or images.labels is None:
        raise HfgenError(
            "class_conditional needs a column of classes in the training and the held-out split: name it with --label_column"
        )
    return images.class_names
