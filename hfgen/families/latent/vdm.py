"""Variational diffusion models (Kingma et al. 2021) of an autoencoder's latents: the chain of a learned schedule in an `LDMPipeline`."""

from __future__ import annotations

from hfgen.core.errors import HfgenError
from hfgen.families.latent import LatentDDPM
from hfgen.families.vdm.flags import VDMFlags
from hfgen.families.vdm.stock import StockVDMLikelihood


class LatentVDM(LatentDDPM):
    """Trained as a variational diffusion model, and saved as a stock chain of 1,000 steps with the network's own timesteps."""

    name = "latent_vdm"
    title = "variational latent diffusion"
    model_flags = VDMFlags
    likelihood_options = StockVDMLikelihood

    def check_pretrained(self, model, config):
        raise HfgenError(
            "pretrained_model_name_or_path: a chain of latents is no schedule that can be learned on, leave it out"
        )

    def resolved(self, config, pretrained):
        return config

    def preset(self, shape):
        from hfgen.models.latent_presets import LATENT_VDMS, nearest_preset

        return nearest_preset(LATENT_VDMS, shape[1])

    def model_config(self, config, pretrained):
        from hfgen.families.latent.vdm_task import initial_latent_config

        return initial_latent_config(config.model)

    def build(self, config, model_config, images, pretrained):
        from hfgen.models.vdm_presets import build_vdm

        return build_vdm(model_config, images.resolution, images.channels)

    def task(self, config, module, images):
        from hfgen.families.latent.vdm_task import make_latent_task

        return make_latent_task(config, module, images)

    def likelihood(self, pipeline, data, settings):
        from hfgen.families.latent.bound import chain_bound
        from hfgen.families.vdm.chain import Chain

        return chain_bound(Chain(pipeline), pipeline.autoencoder, data, settings)
