"""Pipelines: each file is self-contained and ships to the Hub as it is."""

from hfgen.pipelines.pipeline_hfgen_unconditional import UnconditionalDiffusionPipeline

__all__ = ["UnconditionalDiffusionPipeline"]
