"""What a finished training tells of itself: the facts for its model card."""

from __future__ import annotations

import shlex
from dataclasses import fields
from pathlib import Path

from hfgen.data.digits import DIGITS
from hfgen.environment import environment
from hfgen.history import HISTORY_FILE, read_history
from hfgen.trainer.config import DDPMConfig, VAEConfig
from hfgen.trainer.loop import Trainer
from hfgen.trainer.training_set import TrainingSet

UNTOLD = ("cache_dir", "compile")
ALWAYS_TOLD = ("prediction_type", "ddpm_beta_schedule", "ddpm_variance_type")  # a default may change, a model does not


def training_record(config: DDPMConfig | VAEConfig, trainer: Trainer, images: TrainingSet, loss_name: str) -> dict:
    """JSON values: command, data, length, duration, device, versions, held-out loss; no path, name or token in them."""
    data, optimization = config.data, config.optimization
    validations = [row for row in read_history(trainer.output_dir / HISTORY_FILE) if "validation_loss" in row]
    return {
        "command": command_line(config),
        "dataset": None if data.train_data_dir or _is_local(data.dataset_name) else data.dataset_name,
        "train_split": data.train_split,
        "images": len(images.train),
        "image_shape": list(images.shape),
        "held_out": images.held_out,
        "steps": trainer.step,
        "epochs": round(trainer.step / trainer.steps_per_epoch, 2),
        "batch_size": trainer.batch_size,
        "learning_rate": optimization.learning_rate,
        "averaged_weights": optimization.use_ema,
        "loss": loss_name,
        "held_out_loss": validations[-1]["validation_loss"] if validations else None,
        "seconds": round(trainer.seconds, 1),
        "processes": trainer.accelerator.num_processes,
        "mixed_precision": trainer.accelerator.mixed_precision,
        "environment": environment(trainer.accelerator.device),
    }


def command_line(config: DDPMConfig | VAEConfig) -> str:
    """The flags that differ from their defaults, and what defines the model, as a command; of local files and folders only their names."""
    words = ["accelerate launch --quiet", config.script]
    for group in (config.data, config.model, config.optimization):
        for field in fields(group):
            value = getattr(group, field.name)
            if field.name in ALWAYS_TOLD or (value != field.default and field.name not in UNTOLD):
                words.append(f"--{field.name} {_shown(value)}")
    return " ".join([*words, f"--output_dir {_shown(config.run.output_dir)}"])


def _shown(value) -> str:
    text = Path(value).expanduser().resolve().name if isinstance(value, str) and _is_local(value) else f"{value}"
    return shlex.quote(text)


def _is_local(name: str) -> bool:
    return name != DIGITS and (name.startswith(("/", ".", "~", "\\")) or Path(name).exists())
