"""How a class-conditional diffusion model is trained and sampled."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from hfgen.core.errors import HfgenError
from hfgen.data.batch import Batch, RandomSpec
from hfgen.drawing.in_turn import classes_told, in_turn
from hfgen.families.ddpm.flags import ClassConditionalSampling
from hfgen.families.ddpm.sampler import DiffusionSampler
from hfgen.families.ddpm.task import DDPMTask
from hfgen.pipelines import ClassConditionalDDPMPipeline


@dataclass(frozen=True, kw_only=True)
class ClassConditionalDDPMTask(DDPMTask):
    """A `DDPMTask` whose network is told the class, which is withheld from a share `class_dropout` of the rows."""

    class_names: tuple[str, ...]
    class_dropout: float

    @property
    def random(self) -> RandomSpec:
        """Those of a `DDPMTask`, and a number that decides whether the class is withheld."""
        return super().random | RandomSpec(uniform={"class_dropout": ()})

    def condition(self, batch: Batch) -> Mapping[str, torch.Tensor]:
        """The classes; the label after the last one stands for none."""
        withheld = batch.random["class_dropout"] < self.class_dropout
        null_label = len(self.class_names)
        return {"class_labels": torch.where(withheld, null_label, batch.cond["class_labels"])}

    def held_out_condition(self, batch: Batch) -> Mapping[str, torch.Tensor]:
        """The classes of the images."""
        return {"class_labels": batch.cond["class_labels"]}

    def pipeline(self, module: torch.nn.Module) -> ClassConditionalDDPMPipeline:
        """The network with its scheduler and the names of the classes."""
        return ClassConditionalDDPMPipeline(module, self.scheduler, list(self.class_names))

    def preview_sampler(self, module: torch.nn.Module) -> DiffusionSampler:
        """Of the classes in turn."""
        return ClassConditionalSampler(self.pipeline(module), ClassConditionalSampling(**self.preview_options))


class ClassConditionalSampler(DiffusionSampler):
    """Draws image i of the class i, modulo their number, of those that are asked for (by default all in turn).

    Raises `HfgenError` for classes that the model was not told, and as `DiffusionSampler`.
    """

    def __init__(
        self, pipeline: ClassConditionalDDPMPipeline, options: ClassConditionalSampling, compile: bool = False
    ):
        self.class_names = pipeline.class_names
        self.guidance_scale = 1.0 if options.guidance_scale is None else options.guidance_scale
        if not 0 <= self.guidance_scale < math.inf:
            raise HfgenError(f"guidance_scale={self.guidance_scale}: use 0 or more; 1 is no guidance")
        try:
            self.wanted = pipeline.label_numbers(options.class_labels or range(len(self.class_names)))
        except ValueError as error:
            raise HfgenError(str(error)) from error
        super().__init__(pipeline, options, compile)
        self.how = f"{self.how}, {classes_told(options.class_labels)}, guidance {self.guidance_scale:g}"

    def labels(self, count):
        """The class that each image was asked for."""
        return torch.tensor(in_turn(self.wanted, 0, count))

    def arguments(self, first, count):
        """The classes of those images, and the guidance."""
        return {"class_labels": in_turn(self.wanted, first, count), "guidance_scale": self.guidance_scale}
