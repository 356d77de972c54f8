"""Train a DDPM: from parsed flags to a pipeline on disk."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate.utils import set_seed

from hfgen.data.order import Stream, seeded
from hfgen.errors import HfgenError
from hfgen.images import image_grid, to_uint8
from hfgen.models import build_unet, load_unet_config
from hfgen.objectives import SimpleLoss
from hfgen.pipelines import UnconditionalDiffusionPipeline
from hfgen.schedulers import LinearDDPMScheduler
from hfgen.trainer.config import DDPMConfig, DiffusionArguments
from hfgen.trainer.loop import Trainer
from hfgen.trainer.output import check_output_dir, prepare_output_dir, save_into
from hfgen.trainer.plots import plot_losses
from hfgen.trainer.progress import HISTORY_FILE, read_history
from hfgen.trainer.setup import make_accelerator
from hfgen.trainer.training_set import load_training_set

SAMPLES = 64


@dataclass(frozen=True)
class DDPMTask:
    """L_simple as the loss, ancestral samples as the grid, a stock `DDPMPipeline` repository as the result."""

    scheduler: LinearDDPMScheduler
    num_inference_steps: int
    batch_size: int
    seed: int

    def loss(self, model, x_0, noise, uniform):
        return SimpleLoss(self.scheduler)(model, x_0, noise, uniform)

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
    images = load_training_set(
        data, unet_config.get("in_channels"), unet_config.get("sample_size"), optimization.seed, accelerator
    )
    set_seed(optimization.seed)
    unet = build_unet(unet_config, images.resolution, images.channels, model.ddpm_num_steps)
    identity = run_identity(config, len(images.train), dict(unet.config))
    trainer = Trainer(
        accelerator,
        DDPMTask(scheduler, model.ddpm_num_inference_steps, optimization.eval_batch_size, optimization.seed),
        unet,
        images.train,
        images.validation,
        (images.channels, images.resolution, images.resolution),
        data.random_flip,
        optimization,
        run,
        identity,
    )
    accelerator.print(
        f"{sum(p.numel() for p in unet.parameters()):,} parameters, {len(images.train)} training images of "
        f"{images.channels}x{images.resolution}x{images.resolution}, held out: {images.held_out}, "
        f"{trainer.max_steps} steps of {trainer.batch_size} images"
    )
    if accelerator.is_main_process:
        prepare_output_dir(run)
    accelerator.wait_for_everyone()
    start_trackers(accelerator, identity)
    trainer.fit()
    accelerator.end_training()
    output_dir = Path(run.output_dir)
    if accelerator.is_main_process:
        plot_losses(read_history(output_dir / HISTORY_FILE), output_dir / "loss.png", "L_simple per pixel")
    accelerator.print(f"pipeline, samples and loss.png: {output_dir}\nnext: hfgen sample {output_dir} --out grid.png")
    return output_dir


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


def run_identity(config: DDPMConfig, train_images: int, unet_config: dict) -> dict:
    """What must be the same for a checkpoint to be continued, as JSON values."""
    values = asdict(config.data) | asdict(config.model) | asdict(config.optimization)
    shared_out = ("train_batch_size", "gradient_accumulation_steps", "eval_batch_size", "compile", "cache_dir")
    length = ("num_epochs", "max_train_steps", "ddpm_num_inference_steps")
    unet = {k: v for k, v in unet_config.items() if not k.startswith("_")}
    return {k: v for k, v in values.items() if k not in shared_out + length} | {
        "train_images": train_images,
        "unet": {k: list(v) if isinstance(v, tuple) else v for k, v in unet.items()},
    }


def start_trackers(accelerator, identity: dict):
    """Start the logger with the run's flat values as its hyperparameters."""
    flat = {k: v for k, v in identity.items() if isinstance(v, (int, float, str, bool))}
    accelerator.init_trackers("hfgen", config=flat)
