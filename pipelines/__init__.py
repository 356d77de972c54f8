"""Pipelines: each file is self-contained and ships to the Hub as it is."""

from hfgen.models.vae import VAE_CLASSES
from hfgen.pipelines.pipeline_hfgen_class_conditional import ClassConditionalDDPMPipeline
from hfgen.pipelines.pipeline_hfgen_unconditional import UnconditionalDiffusionPipeline
from hfgen.pipelines.pipeline_hfgen_vae import VAEPipeline
from hfgen.schedulers.scheduling_hfgen_posterior_mean import PosteriorMeanDDPMScheduler

VAEPipeline.model_classes = VAE_CLASSES
ClassConditionalDDPMPipeline.runs_own_code = True
ClassConditionalDDPMPipeline.own_schedulers = {"PosteriorMeanDDPMScheduler": PosteriorMeanDDPMScheduler}

__all__ = ["ClassConditionalDDPMPipeline", "UnconditionalDiffusionPipeline", "VAEPipeline"]
