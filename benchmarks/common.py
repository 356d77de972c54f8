"""What the benchmarks share: the images, and what a result tells of where it was measured."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import accelerate
import diffusers
import torch
from accelerate import Accelerator

from hfgen.configs.training import DataConfig
from hfgen.data.training_set import TrainingSet, load_training_set


def load_images(
    dataset_name: str, accelerator: Accelerator, channels: int | None = None, resolution: int | None = None
) -> TrainingSet:
    """The whole training split of a dataset that has a test split too, squares cut from the middle."""
    data = DataConfig(dataset_name=dataset_name, validation_split="test", center_crop=True)
    return load_training_set(data, channels=channels, resolution=resolution, seed=0, accelerator=accelerator)


def environment() -> dict:
    """The device and the versions of what computes on it."""
    threads = torch.get_num_threads()
    cpu = f"{threads} CPU core{'s' * (threads > 1)}"
    versions = {module.__name__: module.__version__ for module in (torch, diffusers, accelerate)}
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else cpu,
        "versions": versions | {"python": platform.python_version()},
    }


def shown_settings(args) -> dict:
    """The flags, without paths of this machine: of what is on disk the last part of its name."""
    values = {k: v for k, v in vars(args).items() if not isinstance(v, Path)}
    return {k: Path(v).name if isinstance(v, str) and Path(v).exists() else v for k, v in values.items()}


def synchronize(device: torch.device):
    """Wait for the GPU, if it is one, so that a clock read next counts all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def write_json(path: Path, result: dict):
    path.write_text(json.dumps(result, indent=1) + "\n")
