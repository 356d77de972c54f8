"""What a training tells of itself: the facts for its model card, and what a checkpoint depends on."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from hfgen.configs.training import TrainingConfig
from hfgen.core.history import HISTORY_FILE, read_history
from hfgen.core.metadata import run_metadata
from hfgen.data.clip_sources import split_name
from hfgen.data.digits import DIGITS
from hfgen.data.loading import ImagesStreamed
from hfgen.data.origin import HUB, source_of
from hfgen.data.training_set import TrainingSet
from hfgen.results import TrainingRecord
from hfgen.trainer.loop import Trainer

PLACES = {
    "train_data_dir": "FOLDER_OF_IMAGES",
    "dataset_name": "FOLDER_OF_A_DATASET",
    "pretrained_model_name_or_path": "FOLDER_OF_A_MODEL",
    "model_config_name_or_path": "CONFIG.json",
    "pretrained_autoencoder": "FOLDER_OF_AN_AUTOENCODER",
    "autoencoder": "FOLDER_OF_AN_AUTOENCODER",
}


def training_record(trainer: Trainer, family: str, images: TrainingSet) -> TrainingRecord:
    """Command, data, length, duration, device, versions, held-out loss of a training on `images` that is done."""
    config = trainer.config
    data, optimization = config.data, config.optimization
    validations = [row for row in read_history(trainer.output_dir / HISTORY_FILE) if "validation_loss" in row]
    return TrainingRecord(
        family=family,
        command=command_line(config) + "".join(f"  # made longer after step {step}" for step in trainer.ended_at),
        dataset=data.dataset_name if source_of(data)[0] in (HUB, DIGITS) else None,
        train_split=data.train_split,
        images=len(images.train) if images.stream is None else trainer.step * trainer.batch_size,
        image_shape=images.shape,
        held_out=images.held_out,
        steps=trainer.step,
        epochs=round(trainer.step / trainer.steps_per_epoch, 2) if images.stream is None else 1,
        batch_size=trainer.batch_size,
        learning_rate=optimization.learning_rate,
        averaged_weights=optimization.use_ema,
        loss=trainer.task.ylabel,
        held_out_loss=validations[-1]["validation_loss"] if validations else None,
        seconds=round(trainer.seconds, 1),
        cpu_seconds=_cpu_seconds(trainer),
        processes=trainer.accelerator.num_processes,
        mixed_precision=trainer.accelerator.mixed_precision,
        run_metadata=run_metadata(trainer.accelerator.device),
        data=None if images.origin is None else images.origin.to_json(),
    )


def _cpu_seconds(trainer: Trainer) -> float | None:
    """Of all processes, which share the work evenly; None on a GPU, whose work they do not tell, and where it is not known.

    Processes that only decode images are none of these: what they spend is not known.
    """
    accelerator, spent = trainer.accelerator, trainer.cpu_seconds
    decoded_elsewhere = trainer.share is not None or isinstance(trainer.images.train, ImagesStreamed)
    if accelerator.device.type != "cpu" or spent is None or decoded_elsewhere:
        return None
    return round(spent * accelerator.num_processes, 1)


def command_line(config: TrainingConfig) -> str:
    """The flags that a card tells, as a command; for local files and folders stand words that say what to put there."""
    words = ["accelerate launch --quiet", config.script]
    for item, value in _flags(config):
        told = item.metadata["card"]
        if (told == "always" and value is not None) or (told == "changed" and value != item.default):
            words.append(f"--{item.name} {_shown(value, PLACES.get(item.name))}")
    if config.data.dataset is not None:
        words.append(f"--dataset_name {PLACES['dataset_name']}")
    return " ".join([*words, f"--output_dir {_shown(str(config.output_dir))}"])


def run_identity(config: TrainingConfig, images: TrainingSet, network: dict[str, Any]) -> dict[str, Any]:
    """What must be the same for a checkpoint to be continued, as JSON values; `network` is the network's config."""
    values = {item.name: value for item, value in _flags(config) if item.metadata["identity"]}
    network = {k: list(v) if isinstance(v, tuple) else v for k, v in network.items() if not k.startswith("_")}
    return values | images.identity() | {"network": network}


def _flags(config: TrainingConfig) -> Iterator[tuple[Field, Any]]:
    """The flags that decide what is trained, with their values."""
    for group in (config.data, config.model, config.optimization):
        for item in fields(group):
            yield item, getattr(group, item.name)


def _shown(value: object, place: str | None = None) -> str:
    """A value as a word; of a local one `place`, or the last part of its name."""
    prefix, name = split_name(value) if isinstance(value, str) else ("", "")
    if not (isinstance(value, str) and _is_local(name)):
        return shlex.quote(f"{value}")
    return f"{prefix}{place or shlex.quote(Path(name).expanduser().resolve().name)}"


def _is_local(name: str) -> bool:
    return name != DIGITS and (name.startswith(("/", ".", "~", "\\")) or Path(name).exists())
