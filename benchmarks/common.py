"""What the benchmarks share: the images, and what a result tells of where it was measured."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from pathlib import Path

import accelerate
import diffusers
import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler

from hfgen.configs.training import DataConfig
from hfgen.core.device import pick_device
from hfgen.data.training_set import TrainingSet, load_training_set
from hfgen.families.model import Model
from hfgen.families.registry import get_family
from hfgen.models import build_unet, load_unet_config
from hfgen.pipelines import UnconditionalDiffusionPipeline


def load_images(
    dataset_name: str, accelerator: Accelerator, channels: int | None = None, resolution: int | None = None
) -> TrainingSet:
    """The whole training split of a dataset that has a test split too, squares cut from the middle."""
    data = DataConfig(dataset_name=dataset_name, validation_split="test", center_crop=True)
    return load_training_set(data, channels=channels, resolution=resolution, seed=0, accelerator=accelerator)


def untrained(unet: str, shape: tuple[int, ...], num_steps: int = 1000, device: str | None = None) -> Model:
    """A diffusion model of images of (C, side, side), with the weights that it begins with: for what does not depend on them."""
    torch.manual_seed(0)
    network = build_unet(load_unet_config(unet), shape[-1], shape[0], num_steps)
    scheduler = DDPMScheduler(num_steps, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    pipeline = UnconditionalDiffusionPipeline(network, scheduler).to(pick_device(device))
    return Model(family=get_family("ddpm"), pipeline=pipeline, name="untrained")


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


def cell(value) -> str:
    """A value of a table."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) >= 1 else f"{value:.3f}"
    return f"{value:,}" if type(value) is int else "" if value is None else str(value)


def table(rows: Sequence[dict]) -> list[str]:
    """The lines of a table of rows that have the same keys."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([cell(value) for value in row.values()] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def synchronize(device: torch.device):
    """Wait for the GPU, if it is one, so that a clock read next counts all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def write_json(path: Path, result: dict):
    path.write_text(json.dumps(result, indent=1) + "\n")
