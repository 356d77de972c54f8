"""Diffusion pipelines from a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import UNet2DModel

from hfgen.core.errors import HfgenError
from hfgen.pipelines import UnconditionalDiffusionPipeline
from hfgen.schedulers import PosteriorMeanDDPMScheduler

OWN_SCHEDULERS = {"PosteriorMeanDDPMScheduler": PosteriorMeanDDPMScheduler}


def load_unconditional(folder: Path, index: Mapping[str, Any]) -> UnconditionalDiffusionPipeline:
    """The pipeline; a scheduler whose code lies in the folder is made by hfgen's own class.

    Raises `HfgenError` for a network that is told classes: nothing says which.
    """
    own = OWN_SCHEDULERS.get(index["scheduler"][1])
    if own is None:
        pipeline = UnconditionalDiffusionPipeline.from_pretrained(folder, use_safetensors=True)
    else:
        unet = UNet2DModel.from_pretrained(folder, subfolder="unet", use_safetensors=True)
        pipeline = UnconditionalDiffusionPipeline(unet, own.from_pretrained(folder, subfolder="scheduler"))
    config = pipeline.unet.config
    if config.num_class_embeds is not None or config.class_embed_type is not None:
        raise HfgenError(
            f"{folder} is conditioned on class labels, but does not say how many or which: hfgen samples class-conditional "
            "models that it has saved itself"
        )
    return pipeline
