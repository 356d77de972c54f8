"""Pipelines: each file is self-contained and ships to the Hub as it is."""

from hfgen.models.vae import VAE_CLASSES
from hfgen.pipelines.pipeline_hfgen_unconditional import UnconditionalDiffusionPipeline
from hfgen.pipelines.pipeline_hfgen_vae import VAEPipeline

VAEPipeline.model_classes = VAE_CLASSES

__all__ = ["UnconditionalDiffusionPipeline", "VAEPipeline"]
