"""From a text-to-image model to one that is controlled."""

from __future__ import annotations

from dataclasses import replace

from hfgen.configs.training import TrainingConfig
from hfgen.core.errors import HfgenError
from hfgen.data.training_set import TrainingSet
from hfgen.families.controlnet.module import Controlled, new_controlnet
from hfgen.families.model import Model
from hfgen.results import TRAINING_FILE, TrainingRecord


def with_captions_of(config: TrainingConfig, base: Model) -> TrainingConfig:
    """The configuration with the captions that the model to control was trained with, where it names none."""
    data = config.data
    place = None if base.folder is None else base.folder / TRAINING_FILE
    if (data.caption_column, data.caption_template) != (None, None) or place is None or not place.is_file():
        return config
    told = TrainingRecord.load(place).data or {}
    own = {name: told.get(name) for name in ("caption_column", "caption_template")}
    return replace(config, data=replace(data, **own))


def build_controlled(images: TrainingSet, base: Model) -> Controlled:
    """The model with a new ControlNet, or its own; `HfgenError` for latents that it does not draw."""
    unet = base.pipeline.unet
    if (unet.config.in_channels, unet.config.sample_size) != (images.channels, images.resolution):
        raise HfgenError(
            f"latents of {images.channels}x{images.resolution}x{images.resolution}: {base.name} draws such of "
            f"{unet.config.in_channels}x{unet.config.sample_size}x{unet.config.sample_size}, leave --resolution out"
        )
    controlnet = getattr(base.pipeline, "controlnet", None)
    if controlnet is None:
        controlnet = new_controlnet(unet, images.representation.autoencoder)
    return Controlled(controlnet.train().requires_grad_(True), base)
