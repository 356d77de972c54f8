"""Variational autoencoders (Kingma & Welling 2014) of one layer of latents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from hfgen.core.errors import HfgenError
from hfgen.families.base import Family
from hfgen.families.vae.flags import VAEFlags, VAELikelihood, VAESampling

PIPELINE, MODULE, MODEL_MODULE = "VAEPipeline", "pipeline_hfgen_vae", "modeling_hfgen_vae"


class VAE(Family):
    """A VAE. Each method imports what it needs: a command line has the flags at once."""

    name = "vae"
    title = "VAE"
    network = "vae"
    model_flags = VAEFlags
    sampling_options = VAESampling
    likelihood_options = VAELikelihood
    own_code: ClassVar[Mapping[str, str]] = {PIPELINE: MODULE, "MLPVAE": MODEL_MODULE, "ConvVAE": MODEL_MODULE}

    def claims(self, index):
        return index.get("_class_name") in (PIPELINE, [MODULE, PIPELINE])

    def files(self, index):
        return ("vae/config.json", "vae/diffusion_pytorch_model*.safetensors")

    def load(self, folder, index, variant):
        from hfgen.families.vae.loading import check_builds
        from hfgen.models.vae_presets import VAE_CLASSES
        from hfgen.pipelines import VAEPipeline

        check_builds(folder, VAE_CLASSES)
        return VAEPipeline.from_pretrained(folder, use_safetensors=True, variant=variant)

    def presets(self):
        from hfgen.models.vae_presets import VAES_FOR

        return VAES_FOR

    def model_config(self, config, pretrained):
        from hfgen.families.vae.training import check_objective, initial_config

        check_objective(config)
        return initial_config(config.model, pretrained)

    def build(self, config, model_config, images, pretrained):
        from hfgen.families.vae.training import initial_model

        return initial_model(config.model, model_config, images, pretrained)

    def task(self, config, module, images):
        from hfgen.families.vae.training import make_task
        from hfgen.pipelines import VAEPipeline

        return make_task(config, module, images.shape, (module.config.latent_size,), VAEPipeline)

    def sampler(self, pipeline, options, compile=False):
        from hfgen.families.vae.sampler import VAESampler

        if compile:
            raise HfgenError("compile: a VAE draws an image in one step, there is nothing to compile: leave it out")
        return VAESampler(pipeline, options)

    def plane(self, pipeline):
        from hfgen.families.vae.sampler import plane_decoder

        return plane_decoder(pipeline) if pipeline.vae.config.latent_size == 2 else None

    def likelihood(self, pipeline, data, settings):
        from hfgen.families.vae.bounds import evaluate_bounds

        return evaluate_bounds(pipeline.vae, data, settings)

    def card(self, pipeline, name, training, results):
        from hfgen.families.vae.card import vae_card

        return vae_card(pipeline.vae, name)

    def figures(self, pipeline, data, out, seed, training):
        from hfgen.families.vae.figures import save_vae_figures

        return save_vae_figures(pipeline, data, out, seed)
