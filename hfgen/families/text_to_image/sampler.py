"""How images are drawn from words."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import SchedulerMixin

from hfgen.core.errors import HfgenError
from hfgen.drawing.in_turn import in_turn
from hfgen.families.ddpm.sampler import DiffusionSampler
from hfgen.families.latent.sampler import as_images
from hfgen.families.text_to_image.flags import OWN_GUIDANCE, TextToImageSampling
from hfgen.models.tokenizer import check_lengths

SHOWN_PROMPTS = 3


class TextSampler(DiffusionSampler):
    """Draws image i of the prompt i, modulo their number, by the pipeline's own call.

    Raises `HfgenError` for prompts that are too long for the model, and as `DiffusionSampler`.
    """

    def __init__(self, pipeline: Any, options: TextToImageSampling, compile: bool = False):
        if compile:
            raise HfgenError("--compile: a pipeline that draws from words is not compiled: leave it out")
        super().__init__(pipeline, options)
        self.prompts = options.prompt
        self.guidance_scale = OWN_GUIDANCE if options.guidance_scale is None else options.guidance_scale
        if self.guidance_scale < 1:
            raise HfgenError(
                f"guidance_scale={self.guidance_scale:g}: of a model that draws from words it is 1, none, or more"
            )
        if self.prompts is not None:
            check_lengths(pipeline.tokenizer, dict.fromkeys(self.prompts))
            self.how = f"{self.how}, {_told(options)}, guidance {self.guidance_scale:g}"
        self.class_names = None if options.class_names is None else list(options.class_names)
        self.wanted = options.labels
        check_timesteps(self.pipeline.scheduler, self.steps)

    def labels(self, count):
        """The class that each image was asked for, where the prompts are captions of classes."""
        return None if self.wanted is None else torch.tensor(in_turn(self.wanted, 0, count))

    def arguments(self, first, count):
        """The prompts of those images, and the guidance."""
        if self.prompts is None:
            raise HfgenError("this model draws from words: pass --prompt TEXT, several in turn")
        return {"prompt": in_turn(self.prompts, first, count), "guidance_scale": self.guidance_scale}

    def _draw(self, generators, first, steps, on_step) -> torch.Tensor:
        told = as_images(self.pipeline.vae, on_step)

        def callback(_pipeline, step, _timestep, tensors):
            told(step, tensors["latents"])
            return {}

        return self.pipeline(
            **self.arguments(first, len(generators)),
            generator=generators,
            num_inference_steps=steps,
            eta=self.eta,
            output_type="pt",
            callback_on_step_end=callback if told is not None else None,
        ).images


def check_timesteps(scheduler: SchedulerMixin, steps: int) -> None:
    """Raise `HfgenError` for a number of steps that a pipeline's own call takes at times that are none."""
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps
    if timesteps.min() < 0 or len(timesteps.unique()) < steps:
        raise HfgenError(
            f"steps={steps}: {type(scheduler).__name__} would take a timestep twice, or one that there is not: use another number"
        )


def _told(options: TextToImageSampling) -> str:
    prompts = options.prompt or ()
    if options.labels is not None or len(prompts) > SHOWN_PROMPTS:
        return f"{len(dict.fromkeys(prompts)):,} prompts"
    return ", ".join(map(repr, prompts))
