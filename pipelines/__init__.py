"""Pipelines. A file `pipeline_hfgen_*.py` is self-contained and ships to the Hub as it is, with marked copies of what it shares."""

from hfgen.models.mhvae_presets import MHVAE_CLASSES
from hfgen.models.modeling_hfgen_flow import FlowModel
from hfgen.models.modeling_hfgen_gan import GANGenerator
from hfgen.models.modeling_hfgen_vdm import VDMModel
from hfgen.models.vae_presets import VAE_CLASSES
from hfgen.pipelines.pipeline_hfgen_class_conditional import ClassConditionalDDPMPipeline
from hfgen.pipelines.pipeline_hfgen_flow import FlowPipeline
from hfgen.pipelines.pipeline_hfgen_gan import GANPipeline
from hfgen.pipelines.pipeline_hfgen_mhvae import MHVAEPipeline
from hfgen.pipelines.pipeline_hfgen_vae import VAEPipeline
from hfgen.pipelines.pipeline_hfgen_vdm import VDMPipeline
from hfgen.pipelines.unconditional import UnconditionalDiffusionPipeline
from hfgen.schedulers.scheduling_hfgen_posterior_mean import PosteriorMeanDDPMScheduler

# what a shipped file cannot import: with these its from_pretrained runs no code of a repository
VAEPipeline.model_classes = VAE_CLASSES
MHVAEPipeline.model_classes = MHVAE_CLASSES
VDMPipeline.model_class = VDMModel
FlowPipeline.model_class = FlowModel
GANPipeline.model_class = GANGenerator
ClassConditionalDDPMPipeline.own_schedulers = {"PosteriorMeanDDPMScheduler": PosteriorMeanDDPMScheduler}

__all__ = [
    "ClassConditionalDDPMPipeline",
    "FlowPipeline",
    "GANPipeline",
    "MHVAEPipeline",
    "UnconditionalDiffusionPipeline",
    "VAEPipeline",
    "VDMPipeline",
]
