"""Motion modules between the layers of a text-to-image model's UNet."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel

from hfgen.core.errors import HfgenError, one_line

MOTION = "motion_modules"


def motion_unet(unet: UNet2DConditionModel, *, positions: int, heads: int) -> UNetMotionModel:
    """A UNet of clips with the weights of one of images, of which nothing but the new motion modules is trained.

    Their last layers are 0: before the training each frame is what the UNet of images makes of it. `positions` is the number of
    frames that there are embeddings for, `heads` that of the attention over frames.

    Raises `HfgenError` for heads that do not divide its channels, and for a UNet that has no such form.

    Source: Guo et al. 2024 (AnimateDiff), section 4.2.
    """
    config = unet.config
    odd = [width for width in config.block_out_channels if width % heads]
    if odd:
        raise HfgenError(
            f"motion_num_attention_heads={heads} does not divide the {odd[0]} channels of a block: use a divisor of all"
        )
    try:
        adapter = MotionAdapter(
            block_out_channels=config.block_out_channels,
            motion_layers_per_block=config.layers_per_block,
            motion_num_attention_heads=heads,
            motion_norm_num_groups=config.norm_num_groups,
            motion_max_seq_length=positions,
        )
        with without_casting_words():
            made = UNetMotionModel.from_unet2d(unet, adapter)
    except Exception as error:  # of a UNet of other blocks diffusers says anything
        raise HfgenError(
            f"its UNet has no form with motion ({one_line(error, 200)}): start from a text-to-image model such as "
            "training/train_text_to_image.py leaves"
        ) from error
    _silence(made)
    return _only_motion_trained(made)


def continued(unet: UNetMotionModel) -> UNetMotionModel:
    """A copy of a trained UNet of clips, whose motion modules are trained on."""
    return _only_motion_trained(copy.deepcopy(unet))


def motion_adapter(unet: UNetMotionModel) -> MotionAdapter:
    """The motion modules of a UNet of clips alone, as other UNets of its shape take them; a copy."""
    config = unet.config
    adapter = MotionAdapter(
        block_out_channels=config.block_out_channels,
        motion_layers_per_block=config.layers_per_block,
        motion_num_attention_heads=config.motion_num_attention_heads,
        motion_norm_num_groups=config.norm_num_groups,
        motion_max_seq_length=config.motion_max_seq_length,
        use_motion_mid_block=config.use_motion_mid_block,
    )
    adapter.load_state_dict({name: value for name, value in unet.state_dict().items() if MOTION in name})
    return adapter.to(unet.device)


def without_motion(unet: UNetMotionModel) -> UNetMotionModel:
    """A copy whose motion modules do nothing: each frame is drawn alone, as the UNet of images draws it."""
    alone = copy.deepcopy(unet)
    _silence(alone)
    return alone


def motion_parameters(unet: UNetMotionModel) -> Iterator[torch.nn.Parameter]:
    """Those of the motion modules."""
    return (parameter for name, parameter in unet.named_parameters() if MOTION in name)


@contextmanager
def without_casting_words() -> Iterator[None]:
    """diffusers warns of the layers, none, that a cast to the type that there is would lose precision in."""
    logger = logging.getLogger("diffusers.models.modeling_utils")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@torch.no_grad()
def _silence(unet: UNetMotionModel) -> None:
    """Let the motion modules, each of which is added to its input, add 0."""
    for name, parameter in unet.named_parameters():
        if MOTION in name and ".proj_out." in name:
            parameter.zero_()


def _only_motion_trained(unet: UNetMotionModel) -> UNetMotionModel:
    unet.requires_grad_(False)
    for parameter in motion_parameters(unet):
        parameter.requires_grad_(True)
    return unet
