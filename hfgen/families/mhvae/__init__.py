"""Hierarchical VAEs: a Markov chain of learned latents, of which a VAE is one layer and a diffusion model the limit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from hfgen.core.errors import HfgenError
from hfgen.families.base import Family
from hfgen.families.mhvae.flags import MHVAEFlags
from hfgen.families.vae.flags import VAELikelihood, VAESampling

PIPELINE, MODULE, MODEL_MODULE = "MHVAEPipeline", "pipeline_hfgen_mhvae", "modeling_hfgen_mhvae"


class MHVAE(Family):
    """A hierarchical VAE. Each method imports what it needs: a command line has the flags at once."""

    name = "mhvae"
    title = "hierarchical VAE"
    network = "vae"
    model_flags = MHVAEFlags
    sampling_options = VAESampling
    likelihood_options = VAELikelihood
    own_code: ClassVar[Mapping[str, str]] = {PIPELINE: MODULE, "MLPMHVAE": MODEL_MODULE, "ConvMHVAE": MODEL_MODULE}

    def claims(self, index):
        return index.get("_class_name") in (PIPELINE, [MODULE, PIPELINE])

    def files(self, index):
        return ("vae/config.json", "vae/diffusion_pytorch_model*.safetensors")

    def load(self, folder, index, variant):
        from hfgen.families.vae.loading import check_builds
        from hfgen.models.mhvae_presets import MHVAE_CLASSES
        from hfgen.pipelines import MHVAEPipeline

        check_builds(folder, MHVAE_CLASSES)
        return MHVAEPipeline.from_pretrained(folder, use_safetensors=True, variant=variant)

    def presets(self):
        from hfgen.models.mhvae_presets import MHVAES_FOR

        return MHVAES_FOR

    def model_config(self, config, pretrained):
        from hfgen.families.vae.training import check_objective, initial_config
        from hfgen.models.mhvae_presets import load_mhvae_config

        check_objective(config)
        return initial_config(config.model, pretrained, load_mhvae_config, "latent_sizes")

    def build(self, config, model_config, images, pretrained):
        from hfgen.families.vae.training import initial_model
        from hfgen.models.mhvae_presets import build_mhvae

        return initial_model(config.model, model_config, images, pretrained, build_mhvae, "latent_sizes")

    def task(self, config, module, images):
        from hfgen.families.vae.training import make_task
        from hfgen.pipelines import MHVAEPipeline

        return make_task(config, module, images.shape, module.latent_sizes, MHVAEPipeline)

    def sampler(self, pipeline, options, compile=False):
        from hfgen.families.vae.sampler import VAESampler

        if compile:
            raise HfgenError(
                "compile: a hierarchical VAE draws an image in a few small steps, there is nothing to compile: leave it out"
            )
        return VAESampler(pipeline, options)

    def likelihood(self, pipeline, data, settings):
        from hfgen.families.vae.bounds import evaluate_bounds

        return evaluate_bounds(pipeline.vae, data, settings)

    def card(self, pipeline, name, training, results):
        from hfgen.families.mhvae.card import mhvae_card

        return mhvae_card(pipeline.vae, name)

    def figures(self, pipeline, data, out, seed, training):
        from hfgen.families.mhvae.figures import save_mhvae_figures

        return save_mhvae_figures(pipeline, data, out, seed)
