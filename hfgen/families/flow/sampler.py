"""How images are drawn from a flow."""

from __future__ import annotations

import torch

from hfgen.drawing.sampler import fitting
from hfgen.families.flow.flags import FlowSampling
from hfgen.pipelines.pipeline_hfgen_flow import FlowPipeline


class FlowSampler:
    """The inverse of the flow, of noise of a temperature."""

    calls = 0
    fixed_batch = False
    class_names: list[str] | None = None
    evaluations = 1

    def __init__(self, pipeline: FlowPipeline, options: FlowSampling):
        self.pipeline, self.temperature = pipeline, options.temperature
        self.how = "inverse of the flow"
        if options.temperature != 1:
            self.how += f", temperature {options.temperature:g}"

    def draw(self, generators, first, on_step=None) -> torch.Tensor:
        """As `Sampler.draw`; there are no steps to tell of."""
        with fitting(len(generators), self.pipeline.device):
            return self.pipeline(len(generators), generators, self.temperature, output_type="pt").images

    def warm_up(self, generators, first) -> None:
        """The first draw takes no longer than others."""

    def labels(self, count: int) -> torch.Tensor | None:
        """None: there are no classes."""
        return None
