"""How images are drawn from a variational diffusion model."""

from __future__ import annotations

import copy
from typing import Any

import torch

from hfgen.core.errors import HfgenError
from hfgen.drawing.in_turn import classes_told, in_turn
from hfgen.drawing.sampler import fitting
from hfgen.families.vdm.flags import DEFAULT_STEPS, VDMSampling
from hfgen.pipelines.pipeline_hfgen_vdm import VDMPipeline


def check_classes(pipeline: VDMPipeline, options: VDMSampling) -> None:
    """Raise `HfgenError` for classes or guidance of a model that was told none."""
    if not pipeline.class_names and (options.class_labels or options.guidance_scale is not None):
        raise HfgenError("class_labels and guidance_scale: this model was told no classes, leave them out")


class VDMSampler:
    """Draws by ancestral steps, image i of the class i, modulo their number, of those that are asked for.

    Raises `HfgenError` for classes that the model was not told, and for an eta.
    """

    fixed_batch = False

    def __init__(self, pipeline: VDMPipeline, options: VDMSampling):
        if options.eta is not None:
            raise HfgenError(
                "eta: of ddim alone, and a variational diffusion model draws by ancestral steps: add --scheduler ddim"
            )
        self.pipeline = copy.copy(pipeline)
        self.pipeline.set_progress_bar_config(disable=True)
        self.class_names: list[str] | None = pipeline.class_names or None
        self.calls = self.steps = options.steps or DEFAULT_STEPS
        self.guidance_scale = 1.0 if options.guidance_scale is None else options.guidance_scale
        self.wanted = self._wanted(options)
        self.how = f"ancestral, {self.steps} steps"
        if self.class_names is not None:
            self.how += f", {classes_told(options.class_labels)}, guidance {self.guidance_scale:g}"

    def _wanted(self, options: VDMSampling) -> list[int] | None:
        """The classes, None for a model of none."""
        check_classes(self.pipeline, options)
        try:
            return self.pipeline.label_numbers(options.class_labels or self.class_names) if self.class_names else None
        except ValueError as error:
            raise HfgenError(str(error)) from error

    def labels(self, count: int) -> torch.Tensor | None:
        """The class that each image was asked for; None where there are no classes."""
        return None if self.wanted is None else torch.tensor(in_turn(self.wanted, 0, count))

    def draw(self, generators, first, on_step=None) -> torch.Tensor:
        """As `Sampler.draw`."""

        def callback(_pipeline: Any, step: int, _t: torch.Tensor, tensors: dict[str, torch.Tensor]) -> None:
            on_step(step, tensors["latents"])

        with fitting(len(generators), self.pipeline.device):
            return self.pipeline(
                len(generators),
                generator=generators,
                num_inference_steps=self.steps,
                class_labels=None if self.wanted is None else in_turn(self.wanted, first, len(generators)),
                guidance_scale=self.guidance_scale,
                output_type="pt",
                callback_on_step_end=None if on_step is None else callback,
            ).images

    def warm_up(self, generators, first) -> None:
        """The first draw takes no longer than others."""
