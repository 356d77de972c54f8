"""Images of classes by a stock class-conditional UNet, of which no label means "no class"."""

from __future__ import annotations

import os
from typing import Any

from diffusers import ConsistencyModelPipeline, DiffusionPipeline, SchedulerMixin, UNet2DModel

from hfgen.pipelines.denoising import Predict
from hfgen.pipelines.pipeline_hfgen_class_conditional import ClassConditionalDDPMPipeline


class LabelledDiffusionPipeline(ClassConditionalDDPMPipeline):
    """Images x_0 ~ p(x_0 | class) by a `UNet2DModel` with `num_class_embeds` classes and any diffusers scheduler.

    As `ClassConditionalDDPMPipeline`, but all labels are classes: there is no guidance, and their names are numbers. What
    `save_pretrained` leaves is a stock repository of a `ConsistencyModelPipeline`, the one of diffusers that takes labels.
    """

    def __init__(self, unet: UNet2DModel, scheduler: SchedulerMixin):
        DiffusionPipeline.__init__(self)
        self.register_modules(unet=unet, scheduler=scheduler)

    @property
    def class_names(self) -> list[str]:
        """The numbers of the labels."""
        return [str(i) for i in range(self.unet.config.num_class_embeds)]

    def _guided(self, numbers: list[int], scale: float) -> Predict:
        if scale != 1:
            raise ValueError(
                f"guidance_scale={scale}: this UNet has no label for no class, so that only 1 is left, no guidance"
            )
        return super()._guided(numbers, scale)

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Save weights and configs; arguments as in `DiffusionPipeline.save_pretrained`."""
        stock = ConsistencyModelPipeline(self.unet, self.scheduler)
        stock.save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)
