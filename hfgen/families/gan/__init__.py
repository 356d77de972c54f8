"""Generative adversarial networks (Goodfellow et al. 2014): samples without a likelihood."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from hfgen.core.errors import HfgenError
from hfgen.families.base import Family
from hfgen.families.gan.flags import GANFlags, GANSampling

PIPELINE, MODULE, MODEL_MODULE = "GANPipeline", "pipeline_hfgen_gan", "modeling_hfgen_gan"


class GAN(Family):
    """A GAN. Each method imports what it needs: a command line has the flags at once."""

    name = "gan"
    title = "GAN"
    network = "generator"
    no_likelihood = "a GAN has no likelihood, as it says of no image how probable it is"
    model_flags = GANFlags
    sampling_options = GANSampling
    own_code: ClassVar[Mapping[str, str]] = {PIPELINE: MODULE, "GANGenerator": MODEL_MODULE}

    def claims(self, index):
        return index.get("_class_name") in (PIPELINE, [MODULE, PIPELINE])

    def files(self, index):
        return ("generator/config.json", "generator/diffusion_pytorch_model*.safetensors")

    def load(self, folder, index, variant):
        from hfgen.families.gan.loading import load_pipeline

        return load_pipeline(folder, index, variant)

    def presets(self):
        from hfgen.models.gan_presets import GANS_FOR

        return GANS_FOR

    def model_config(self, config, pretrained):
        from hfgen.families.gan.task import initial_config

        return initial_config(config.model)

    def build(self, config, model_config, images, pretrained):
        from hfgen.families.gan.networks import GANModule
        from hfgen.models.gan_presets import build_gan

        classes = len(self.class_names(config, images)) or None
        return GANModule(*build_gan(model_config, images.resolution, images.channels, classes))

    def class_names(self, config, images) -> list[str]:
        """Of the classes that both networks are told; none without class_conditional. `HfgenError` where the images have none."""
        return images.told_classes() if config.model.class_conditional else []

    def task(self, config, module, images):
        from hfgen.families.gan.task import make_task

        return make_task(config, module, images, self.class_names(config, images))

    def sampler(self, pipeline, options, compile=False):
        from hfgen.families.gan.sampler import GANSampler

        if compile:
            raise HfgenError("compile: a GAN draws an image in one step, there is nothing to compile: leave it out")
        return GANSampler(pipeline, options)

    def card(self, pipeline, name, training, results):
        from hfgen.families.gan.card import gan_card

        return gan_card(pipeline, name, results)

    def figures(self, pipeline, data, out, seed, training):
        from hfgen.families.gan.figures import save_gan_figures

        return save_gan_figures(self, pipeline, out, seed)
