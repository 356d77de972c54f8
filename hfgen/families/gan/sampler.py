"""How images are drawn from a GAN."""

from __future__ import annotations

import torch

from hfgen.core.errors import HfgenError
from hfgen.drawing.in_turn import classes_told, in_turn
from hfgen.drawing.sampler import fitting
from hfgen.families.gan.flags import GANSampling
from hfgen.pipelines.pipeline_hfgen_gan import GANPipeline


class GANSampler:
    """Images of noise, image i of the class i, modulo their number, of those that are asked for.

    Raises `HfgenError` for classes that the model is not told.
    """

    calls = 0
    fixed_batch = False

    def __init__(self, pipeline: GANPipeline, options: GANSampling):
        self.pipeline = pipeline
        self.class_names: list[str] | None = pipeline.class_names or None
        if options.class_labels and self.class_names is None:
            raise HfgenError("class_labels: this model is told no classes, leave them out")
        try:
            asked = options.class_labels or self.class_names
            self.wanted = None if asked is None else pipeline.label_numbers(asked)
        except ValueError as error:
            raise HfgenError(str(error)) from error
        self.how = "one step"
        if self.class_names is not None:
            self.how += f", {classes_told(options.class_labels)}"

    def labels(self, count: int) -> torch.Tensor | None:
        """The class that each image is asked for; None where there are no classes."""
        return None if self.wanted is None else torch.tensor(in_turn(self.wanted, 0, count))

    def draw(self, generators, first, on_step=None) -> torch.Tensor:
        """As `Sampler.draw`; there are no steps to tell of."""
        labels = None if self.wanted is None else in_turn(self.wanted, first, len(generators))
        with fitting(len(generators), self.pipeline.device):
            return self.pipeline(len(generators), generators, labels, output_type="pt").images

    def warm_up(self, generators, first) -> None:
        """The first draw takes no longer than others."""
