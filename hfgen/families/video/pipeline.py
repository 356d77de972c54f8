"""A stock pipeline that keeps the UNet of images and the motion modules apart on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
from diffusers import UNet2DConditionModel

from hfgen.families.video.motion import motion_adapter, without_casting_words


class AnimateDiffPipeline(diffusers.AnimateDiffPipeline):
    """diffusers' own, by its name in the repositories that it writes, where the motion modules lie once and not twice.

    Attributes:
        still: the `UNet2DConditionModel` that the motion modules are in, which is saved beside them; None of a pipeline that was made
            of a `UNetMotionModel`, which is saved whole.
    """

    def __init__(
        self,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        unet: Any,
        motion_adapter: Any,
        scheduler: Any,
        feature_extractor: Any = None,
        image_encoder: Any = None,
    ):
        with without_casting_words():
            super().__init__(
                vae, text_encoder, tokenizer, unet, motion_adapter, scheduler, feature_extractor, image_encoder
            )
        self.still = unet if isinstance(unet, UNet2DConditionModel) else None

    def save_pretrained(self, save_directory: str | Path, *args: Any, **options: Any) -> None:
        """As `DiffusionPipeline.save_pretrained`, with the motion modules as they are now."""
        moving = self.unet
        self.register_modules(motion_adapter=motion_adapter(moving), unet=self.still or moving)
        try:
            super().save_pretrained(save_directory, *args, **options)
        finally:
            self.register_modules(unet=moving)
