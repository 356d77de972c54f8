"""Diffusion models of an autoencoder's latents (Rombach et al. 2022): a `UNet2DModel` in an `LDMPipeline`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from hfgen.families.ddpm import DDPM

# by which a stock repository says that hfgen has trained it, and what its bound is
KEY = "_hfgen_family"


class LatentDDPM(DDPM):
    """An unconditional diffusion model of latents. Each method imports what it needs."""

    name = "latent_ddpm"
    title = "latent diffusion"
    own_code: ClassVar[Mapping[str, str]] = {}
    autoencoder_slot: ClassVar[str] = "vqvae"

    def claims(self, index):
        """A stock repository that says so; others of its kind are sampled as whatever diffusers loads."""
        return index.get(KEY) == self.name

    def files(self, index):
        parts = (self.network, self.autoencoder_slot)
        weights = [
            f"{part}/{file}" for part in parts for file in ("config.json", "diffusion_pytorch_model*.safetensors")
        ]
        return ("scheduler/scheduler_config.json", *weights)

    def for_repository(self, folder, index):
        return self

    def load(self, folder, index, variant):
        from hfgen.families.ddpm.loading import load_scheduler, load_unet
        from hfgen.families.latent.loading import load_part
        from hfgen.pipelines.latent import LatentDiffusionPipeline

        autoencoder = load_part(folder, self.autoencoder_slot, variant)
        return LatentDiffusionPipeline(
            autoencoder, load_unet(folder, variant), load_scheduler(folder, index), self.name
        )

    def image_shape(self, pipeline):
        """Of what is decoded."""
        from hfgen.data.latents import factor

        _, height, width = super().image_shape(pipeline)
        f = factor(pipeline.autoencoder)
        return pipeline.autoencoder.config.out_channels, height * f, width * f

    def configs(self, pipeline):
        """Those of network and scheduler, and of the autoencoder with a digest of its weights."""
        from hfgen.families.latent.loading import described

        return {**super().configs(pipeline), "autoencoder": described(pipeline.autoencoder)}

    def for_training(self, config):
        return self

    def resolved(self, config, pretrained):
        """As of images, but for the variance of the reverse steps: beta, as beta_tilde of the first ones costs a density 0.4 nats."""
        given = config.model.ddpm_variance_type
        if given is None and pretrained is None:
            config = replace(config, model=replace(config.model, ddpm_variance_type="fixed_large"))
        return super().resolved(config, pretrained)

    def check_pretrained(self, model, config):
        from hfgen.families.latent.loading import check_latent_start

        check_latent_start(self, model, config)

    def presets(self):
        return {}

    def preset(self, shape):
        from hfgen.models.latent_presets import LATENT_UNETS, nearest_preset

        return nearest_preset(LATENT_UNETS, shape[1])

    def better_preset(self, name, shape, on_gpu):
        return None

    def model_config(self, config, pretrained):
        from hfgen.families.ddpm.task import make_objective, make_scheduler
        from hfgen.families.latent.task import check_stock
        from hfgen.models.latent_presets import load_latent_unet_config

        check_stock(config.model)
        make_objective(config.model, make_scheduler(config.model))
        if pretrained is not None:
            return {k: v for k, v in pretrained.module.config.items() if not k.startswith("_")}
        name = config.model.model_config_name_or_path
        return {} if name is None else load_latent_unet_config(name)

    def image_config(self, config, model_config):
        from hfgen.families.latent.loading import image_config

        return image_config(config, model_config)

    def represented(self, config, images, device, show_progress):
        from hfgen.data.latents import encode_training_set
        from hfgen.families.autoencoder.loading import load_autoencoder

        autoencoder = load_autoencoder(config.model.autoencoder)
        return encode_training_set(images, autoencoder, device, show_progress=show_progress)

    def task(self, config, module, images):
        from hfgen.families.latent.task import LatentDDPMTask, latent_settings

        return LatentDDPMTask(**latent_settings(config, images))

    def sampler(self, pipeline, options, compile=False):
        from hfgen.families.latent.sampler import LatentSampler

        return LatentSampler(pipeline, options, compile)

    def likelihood(self, pipeline, data, settings):
        from hfgen.families.ddpm.bound import check_first_timestep
        from hfgen.families.latent.bound import ddpm_bound

        check_first_timestep(pipeline.unet)
        return ddpm_bound(pipeline.unet, pipeline.scheduler, pipeline.autoencoder, data, settings)

    def card(self, pipeline, name, training, results):
        from hfgen.families.latent.card import latent_card

        return latent_card(self, pipeline, name, results)
