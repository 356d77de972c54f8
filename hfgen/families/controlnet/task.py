"""How a ControlNet is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import StableDiffusionControlNetPipeline

from hfgen.configs.training import TrainingConfig
from hfgen.data.batch import Batch
from hfgen.data.conditions import Conditions
from hfgen.data.training_set import TrainingSet
from hfgen.families.base import PREVIEWS
from hfgen.families.controlnet.flags import ControlSampling
from hfgen.families.controlnet.module import Controlled, as_condition
from hfgen.families.controlnet.sampler import ControlSampler
from hfgen.families.ddpm.flags import DDPMFlags
from hfgen.families.ddpm.pretrained import process_of
from hfgen.families.ddpm.task import task_settings
from hfgen.families.text_to_image.task import TextToImageTask, text_settings


@dataclass(frozen=True, kw_only=True)
class ControlTask(TextToImageTask):
    """A `TextToImageTask` whose network is told a picture to follow as well, of which none is withheld.

    Attributes:
        conditions, held_out_conditions: the pictures of the training and of the held-out rows.
        mirrored: training rows are mirrored, where their number says so, and their pictures with them.
    """

    conditions: Conditions
    held_out_conditions: Conditions
    mirrored: bool

    def condition(self, batch: Batch) -> Mapping[str, torch.Tensor]:
        """Caption and picture."""
        pictures = as_condition(self.conditions.images[batch.rows].to(batch.data.device))
        if self.mirrored:
            own = batch.random["flip"].view(-1, 1, 1, 1) < 0.5
            pictures = torch.where(own, pictures, pictures.flip(-1))
        return {**super().condition(batch), "controlnet_cond": pictures}

    def held_out_condition(self, batch: Batch) -> Mapping[str, torch.Tensor]:
        """Caption and picture of the images."""
        pictures = as_condition(self.held_out_conditions.images[batch.rows].to(batch.data.device))
        return {**super().held_out_condition(batch), "controlnet_cond": pictures}

    def pipeline(self, module: Any) -> Any:
        """As stock diffusers loads it, with the model that is controlled."""
        base = module.base.pipeline
        return StableDiffusionControlNetPipeline(
            vae=self.autoencoder,
            text_encoder=base.text_encoder,
            tokenizer=base.tokenizer,
            unet=base.unet,
            controlnet=module.controlnet,
            scheduler=base.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )

    def preview_sampler(self, module: Any) -> Any:
        """Of the first held-out captions and their pictures."""
        first = replace(self.held_out_conditions, images=self.held_out_conditions.images[:PREVIEWS])
        options = ControlSampling(prompt=self.prompts, conditions=first, **self.preview_options)
        return ControlSampler(self.pipeline(module), options)


def control_settings(config: TrainingConfig, module: Controlled, images: TrainingSet) -> dict[str, Any]:
    """The attributes of a `ControlTask`; the process is that of the model that is controlled."""
    own, held_out = config.model, images.companions
    scheduler = module.base.pipeline.scheduler
    chosen = DDPMFlags(loss_weighting=own.loss_weighting, snr_gamma=own.snr_gamma, time_sampling=own.time_sampling)
    # its betas may be anybody's, of which no flag tells
    process = replace(chosen, **{**process_of(scheduler), "ddpm_beta_schedule": None})
    return {
        **task_settings(replace(config, model=process), images, scheduler),
        **text_settings(module, images),
        "caption_dropout": own.caption_dropout,
        "prompts": tuple((held_out.captions or [])[:PREVIEWS]),
        "class_names": (),
        "conditions": images.train_companions.conditions,
        "held_out_conditions": held_out.conditions,
        "mirrored": config.data.random_flip,
    }
