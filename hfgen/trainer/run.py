"""What every training does around the loop: identity, output folder, trackers, curves."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from accelerate import Accelerator

from hfgen.trainer.config import DDPMConfig, VAEConfig
from hfgen.trainer.loop import Trainer
from hfgen.trainer.output import prepare_output_dir
from hfgen.trainer.plots import plot_history
from hfgen.trainer.progress import HISTORY_FILE, read_history
from hfgen.trainer.task import Task
from hfgen.trainer.training_set import TrainingSet

SAMPLES = 64


def run_training(
    config: DDPMConfig | VAEConfig, accelerator: Accelerator, images: TrainingSet, model, task: Task
) -> Path:
    """Train `model` on `images` by `task`; returns the output folder, which holds the pipeline, samples and curves.

    Raises `HfgenError` as `Trainer` does.
    """
    run = config.run
    identity = run_identity(config, len(images.train), dict(model.config))
    trainer = Trainer(
        accelerator,
        task,
        model,
        images.train,
        images.validation,
        config.data.random_flip,
        config.optimization,
        run,
        identity,
    )
    accelerator.print(
        f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(images.train)} training images of "
        f"{'x'.join(map(str, images.shape))}, held out: {images.held_out}, "
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
        plot_history(read_history(output_dir / HISTORY_FILE), output_dir / "loss.png", task.ylabel, task.terms)
    accelerator.print(f"pipeline, samples and loss.png: {output_dir}\nnext: hfgen sample {output_dir} --out grid.png")
    return output_dir


def run_identity(config: DDPMConfig | VAEConfig, train_images: int, model_config: dict) -> dict:
    """What must be the same for a checkpoint to be continued, as JSON values."""
    values = asdict(config.data) | asdict(config.model) | asdict(config.optimization)
    shared_out = ("train_batch_size", "gradient_accumulation_steps", "eval_batch_size", "compile", "cache_dir")
    length = ("num_epochs", "max_train_steps", "ddpm_num_inference_steps")
    network = {k: v for k, v in model_config.items() if not k.startswith("_")}
    return {k: v for k, v in values.items() if k not in shared_out + length} | {
        "train_images": train_images,
        "network": {k: list(v) if isinstance(v, tuple) else v for k, v in network.items()},
    }


def start_trackers(accelerator: Accelerator, identity: dict):
    """Start the logger with the run's flat values as its hyperparameters."""
    flat = {k: v for k, v in identity.items() if isinstance(v, (int, float, str, bool))}
    accelerator.init_trackers("hfgen", config=flat)
