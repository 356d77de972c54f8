"""Text-to-image pipelines from a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

from hfgen.core.errors import HfgenError
from hfgen.core.resume import tensors_digest

NETWORKS = ("vae", "text_encoder", "unet", "controlnet")


def load_pipeline(folder: Path, variant: str | None, kind: Any = StableDiffusionPipeline) -> Any:
    """The pipeline, in float32 whatever its files hold; `HfgenError` where its images are of no known size."""
    pipeline = kind.from_pretrained(
        folder,
        safety_checker=None,
        requires_safety_checker=False,
        use_safetensors=True,
        variant=variant,
    )
    for name in NETWORKS:
        part = getattr(pipeline, name, None)
        if part is not None and part.dtype != torch.float32:
            part.to(torch.float32)
    if pipeline.unet.config.sample_size is None:
        raise HfgenError(
            f"{folder}: sample_size is None in unet/config.json, so that nobody knows how large the images are: set it there to the side "
            "of the latents"
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def image_shape(pipeline: Any) -> tuple[int, int, int]:
    """(C, H, W) of its images."""
    size, factor = pipeline.unet.config.sample_size, pipeline.vae_scale_factor
    height, width = (size, size) if isinstance(size, int) else size
    return pipeline.vae.config.out_channels, height * factor, width * factor


def configs(pipeline: Any) -> dict[str, Mapping[str, Any]]:
    """The configs that results depend on; the autoencoder's with a digest of its weights."""
    return {
        "unet": pipeline.unet.config,
        "text_encoder": pipeline.text_encoder.config.to_dict(),
        "vae": {**pipeline.vae.config, "weights": tensors_digest(pipeline.vae.state_dict())},
        "scheduler": pipeline.scheduler.config,
    }
