"""Autoencoders of images into latents (Kingma & Welling 2014; Rombach et al. 2022): diffusers' `AutoencoderKL`."""

from __future__ import annotations

from hfgen.core.errors import HfgenError
from hfgen.families.autoencoder.flags import AutoencoderFlags, AutoencoderLikelihood
from hfgen.families.base import Family

PIPELINE = "AutoencoderPipeline"


class Autoencoder(Family):
    """An `AutoencoderKL`. Each method imports what it needs: a command line has the flags at once."""

    name = "autoencoder"
    title = "autoencoder"
    network = "vae"
    model_flags = AutoencoderFlags
    likelihood_options = AutoencoderLikelihood
    draws = False

    def claims(self, index):
        return index.get("_class_name") == PIPELINE

    def files(self, index):
        return ("vae/config.json", "vae/diffusion_pytorch_model*.safetensors")

    def load(self, folder, index, variant):
        from diffusers import AutoencoderKL

        from hfgen.families.autoencoder.likelihood import likelihood_of
        from hfgen.pipelines.autoencoder import AutoencoderPipeline

        vae = AutoencoderKL.from_pretrained(folder, subfolder="vae", use_safetensors=True, variant=variant)
        likelihood_of(vae)
        return AutoencoderPipeline(vae.eval())

    def configs(self, pipeline):
        """The autoencoder's, and its likelihood's, which its scales are a part of."""
        from hfgen.families.autoencoder.likelihood import KEY

        return {**super().configs(pipeline), "likelihood": pipeline.vae.config.get(KEY) or {}}

    def presets(self):
        from hfgen.models.autoencoder_presets import AUTOENCODERS_FOR

        return AUTOENCODERS_FOR

    def model_config(self, config, pretrained):
        from hfgen.families.autoencoder.building import initial_config

        return initial_config(config)

    def image_config(self, config, model_config):
        """Its channels; of one that is trained on images of another size their own."""
        size = None if config.model.pretrained_autoencoder else model_config.get("sample_size")
        return model_config.get("in_channels"), size

    def build(self, config, model_config, images, pretrained):
        from hfgen.families.autoencoder.building import initial_networks

        return initial_networks(config.model, model_config, images)

    def task(self, config, module, images):
        from hfgen.families.autoencoder.building import make_task

        return make_task(config, module, images)

    def sampler(self, pipeline, options, compile=False):
        from hfgen.families.autoencoder.sampler import Reconstructions

        if compile:
            raise HfgenError("compile: an autoencoder reconstructs an image in one step, leave it out")
        return Reconstructions(pipeline.vae)

    def likelihood(self, pipeline, data, settings):
        from hfgen.families.autoencoder.measure import measure

        return measure(pipeline.vae, data, settings)

    def card(self, pipeline, name, training, results):
        from hfgen.families.autoencoder.card import autoencoder_card

        return autoencoder_card(pipeline, name)

    def figures(self, pipeline, data, out, seed, training):
        from hfgen.families.autoencoder.figures import save_reconstructions

        return save_reconstructions(pipeline.vae, data, out)
