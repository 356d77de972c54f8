"""From the flags of a video training, and the text-to-image model that it starts from, to the network."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from diffusers import UNetMotionModel

from hfgen.configs.training import TrainingConfig
from hfgen.core.errors import HfgenError
from hfgen.data.training_set import TrainingSet
from hfgen.families.model import Model
from hfgen.families.text_to_image.loading import image_shape
from hfgen.families.video.flags import PARTS, VideoFlags
from hfgen.families.video.motion import continued, motion_unet

WAY_OUT = "name a text-to-image model, such as training/train_text_to_image.py leaves, or a video model of one"

# the pipeline whose other parts a network in training belongs to
_PARTS: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def check_start(model: Model, given: str) -> None:
    """Raise `HfgenError` for a model into which no motion modules go."""
    parts = model.pipeline.components
    unet = getattr(parts.get("unet"), "config", {})
    if any(parts.get(name) is None for name in PARTS) or "text_encoder_2" in parts or "cross_attention_dim" not in unet:
        raise HfgenError(f"{given} is a {model.family.title} model, no text-to-image model: {WAY_OUT}")
    if unet["out_channels"] != unet["in_channels"]:
        raise HfgenError(f"{given}: its UNet predicts a variance too, which no model of clips does: {WAY_OUT}")
    _, height, width = image_shape(model.pipeline)
    if height != width:
        raise HfgenError(f"{given} draws images of {height}x{width}, and hfgen trains on square ones alone: {WAY_OUT}")


def clip_config(config: TrainingConfig, pretrained: Model | None) -> dict[str, Any]:
    """What the model to start from says of the frames; `HfgenError` where there is none."""
    if pretrained is None:
        raise HfgenError(f"--pretrained_model_name_or_path is missing: {WAY_OUT}")
    channels, side, _ = image_shape(pretrained.pipeline)
    if config.data.resolution not in (None, side):
        raise HfgenError(
            f"resolution={config.data.resolution}: {pretrained.name} draws images of {side}x{side}: leave it out"
        )
    return {"in_channels": channels, "sample_size": side}


def build_motion(model: VideoFlags, images: TrainingSet, pretrained: Model) -> Any:
    """The network; `HfgenError` for clips of more frames than its motion modules have embeddings for, and as `motion_unet`."""
    unet, frames = pretrained.pipeline.unet, images.shape[0]
    trained = isinstance(unet, UNetMotionModel)
    positions = unet.config.motion_max_seq_length if trained else model.motion_max_seq_length
    if frames > positions:
        raise HfgenError(
            f"clips of {frames} frames: the motion modules have embeddings for {positions}: pass --num_frames {positions}, or for new "
            f"modules --motion_max_seq_length {frames}"
        )
    made = (
        continued(unet) if trained else motion_unet(unet, positions=positions, heads=model.motion_num_attention_heads)
    )
    _PARTS[made] = pretrained.pipeline
    return made


def still_of(pipeline: Any) -> Any:
    """The UNet of images of a text-to-image model or of a video model; None of one that was saved whole."""
    return pipeline.still if hasattr(pipeline, "still") else pipeline.unet


def parts_of(unet: Any) -> Any:
    """The pipeline whose UNet a network in training was made of."""
    return _PARTS[unet]
