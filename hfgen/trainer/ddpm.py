"""Train a DDPM: from parsed flags to a pipeline on disk."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate.utils import set_seed

from hfgen.data.order import Stream, seeded
from hfgen.errors import HfgenError
from hfgen.history import HISTORY_FILE, plot_history, read_history
from hfgen.images import image_grid, to_uint8
from hfgen.models import build_unet, load_unet_config
from hfgen.objectives import SimpleLoss
from hfgen.pipelines import UnconditionalDiffusionPipeline
from hfgen.schedulers import LinearDDPMScheduler
from hfgen.trainer.config import DDPMConfig, DiffusionArguments
from hfgen.trainer.output import check_output_dir, save_into
from hfgen.trainer.run import SAMPLES, hub_repository, run_training
from hfgen.trainer.setup import make_accelerator
from hfgen.trainer.training_set import TrainingSet, load_training_set

GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class DDPMTask:
    """L_simple as the loss, ancestral samples as the grid, a stock `DDPMPipeline` repository as the result."""

    scheduler: LinearDDPMScheduler
    noise_shape: tuple[int, int, int]
    num_inference_steps: int
    batch_size: int
    seed: int
    terms = ("loss",)
    uniforms = 1
    ylabel = "L_simple per pixel"

    def loss(self, model, batch):
        return {"loss": SimpleLoss(self.scheduler)(model, batch.x_0, batch.noise, batch.uniform[:, 0])}

    def held_out_loss(self, model, batch):
        """The loss at times spread evenly over the images, whatever the batches."""
        times = ((batch.rows + 0.5) * GOLDEN_RATIO % 1).to(batch.uniform)
        return self.loss(model, replace(batch, uniform=times[:, None]))

    def save_samples(self, model, path: Path):
        pipeline = UnconditionalDiffusionPipeline(model, self.scheduler)
        pipeline.set_progress_bar_config(leave=False, desc="samples")
        generator = seeded(model.device, self.seed, Stream.SAMPLES)
        sizes = [min(self.batch_size, SAMPLES - i) for i in range(0, SAMPLES, self.batch_size)]
        batches = [
            pipeline(n, generator, num_inference_steps=self.num_inference_steps, output_type="pt").images for n in sizes
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        image_grid(to_uint8(torch.cat(batches) * 2 - 1).cpu()).save(path)

    def save_pipeline(self, model, output_dir: Path):
        pipeline = UnconditionalDiffusionPipeline(model, self.scheduler)
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
    set_seed(optimization.seed)
    unet = build_unet(unet_config, images.resolution, images.channels, model.ddpm_num_steps)
    task = DDPMTask(
        scheduler, images.shape, model.ddpm_num_inference_steps, optimization.eval_batch_size, optimization.seed
    )
    return run_training(config, accelerator, images, unet, task, repo)


def make_scheduler(model: DiffusionArguments) -> LinearDDPMScheduler:
    """The scheduler of the flags; `HfgenError` when T admits no linear betas or has fewer steps than the samples."""
    if model.ddpm_num_inference_steps > model.ddpm_num_steps:
        raise HfgenError(
            f"ddpm_num_inference_steps={model.ddpm_num_inference_steps} is more than ddpm_num_steps={model.ddpm_num_steps}: "
            "lower it"
        )
    try:
        return LinearDDPMScheduler(model.ddpm_num_steps, variance_type=model.ddpm_variance_type)
    except ValueError as error:
        raise HfgenError(f"ddpm_num_steps: {error}") from error
