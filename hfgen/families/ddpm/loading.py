"""Diffusion pipelines from a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
from diffusers import SchedulerMixin, UNet2DModel

from hfgen.core.errors import HfgenError
from hfgen.core.files import read_json
from hfgen.pipelines import UnconditionalDiffusionPipeline
from hfgen.schedulers import PosteriorMeanDDPMScheduler

OWN_SCHEDULERS = {"PosteriorMeanDDPMScheduler": PosteriorMeanDDPMScheduler}


def load_unconditional(folder: Path, index: Mapping[str, Any], variant: str | None) -> UnconditionalDiffusionPipeline:
    """The pipeline; a scheduler whose code lies in the folder is made by hfgen's own class.

    Raises `HfgenError` as `load_unet`.
    """
    return UnconditionalDiffusionPipeline(load_unet(folder, variant), load_scheduler(folder, index))


def load_unet(folder: Path, variant: str | None) -> UNet2DModel:
    """The network of a folder; `HfgenError` where its images are of no known size, or of one that it cannot halve."""
    unet = UNet2DModel.from_pretrained(folder, subfolder="unet", use_safetensors=True, variant=variant)
    size, halvings = unet.config.sample_size, len(unet.config.block_out_channels) - 1
    if size is None:
        raise HfgenError(
            f"{folder}: sample_size is None in unet/config.json, so that nobody knows how large the images are: set it there to "
            "their side, or to [height, width]"
        )
    if any(side % 2**halvings for side in ([size] if isinstance(size, int) else size)):
        raise HfgenError(
            f"{folder}: sample_size is {size} in unet/config.json, which cannot be halved {halvings} times, as this UNet does: "
            f"set it to multiples of {2**halvings}"
        )
    return unet


def load_scheduler(folder: Path, index: Mapping[str, Any]) -> SchedulerMixin:
    """The scheduler of a folder; `HfgenError` for one that diffusers has not."""
    name = index["scheduler"][1]
    kind = OWN_SCHEDULERS.get(name) or getattr(diffusers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, SchedulerMixin)):
        raise HfgenError(
            f"{folder} has a {name}: diffusers {diffusers.__version__} has no such scheduler, or needs another package for it"
        )
    return kind.from_pretrained(folder, subfolder="scheduler")


def is_labelled(folder: Path) -> bool:
    """Whether the network is told classes; `HfgenError` for a config that cannot be read."""
    config = read_json(folder / "unet" / "config.json")
    return config.get("num_class_embeds") is not None or config.get("class_embed_type") is not None


def family_name(folder: Path) -> str | None:
    """The family that the scheduler's config names, where hfgen wrote it; `HfgenError` for a config that cannot be read."""
    return read_json(folder / "scheduler" / "scheduler_config.json").get("_hfgen_family")
