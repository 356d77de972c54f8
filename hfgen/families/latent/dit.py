"""Diffusion transformers of an autoencoder's latents (Peebles & Xie 2023) that are told classes: a stock `DiTPipeline`."""

from __future__ import annotations

from hfgen.core.errors import HfgenError
from hfgen.families.ddpm.flags import ClassConditionalSampling
from hfgen.families.latent import LatentDDPM

MOST_CLASSES = 1000


class DiT(LatentDDPM):
    """A model of the latents of p(x | class) and, with the class withheld, of p(x)."""

    name = "dit"
    title = "latent diffusion transformer"
    network = "transformer"
    autoencoder_slot = "vae"
    sampling_options = ClassConditionalSampling
    can_compile = False

    def load(self, folder, index, variant):
        from diffusers import DiTTransformer2DModel

        from hfgen.families.ddpm.loading import load_scheduler
        from hfgen.families.latent.loading import load_part
        from hfgen.pipelines.latent import LatentTransformerPipeline

        transformer = DiTTransformer2DModel.from_pretrained(
            folder, subfolder="transformer", use_safetensors=True, variant=variant
        )
        names = index.get("id2label") or {}
        if not isinstance(names, dict) or set(names) != {str(number) for number in range(len(names))}:
            raise HfgenError(
                f"{folder}: id2label in model_index.json does not name classes 0, 1, ...: write them there"
            )
        ordered = [names[str(number)] for number in range(len(names))]
        autoencoder = load_part(folder, self.autoencoder_slot, variant)
        return LatentTransformerPipeline(transformer, autoencoder, load_scheduler(folder, index), ordered)

    def preset(self, shape):
        from hfgen.models.latent_presets import DITS, nearest_preset

        return nearest_preset(DITS, shape[1])

    def model_config(self, config, pretrained):
        from hfgen.families.ddpm.task import make_objective, make_scheduler
        from hfgen.families.latent.task import check_stock
        from hfgen.models.latent_presets import load_dit_config

        check_stock(config.model)
        make_objective(config.model, make_scheduler(config.model))
        if pretrained is not None:
            return {k: v for k, v in pretrained.module.config.items() if not k.startswith("_")}
        name = config.model.model_config_name_or_path
        return {} if name is None else load_dit_config(name)

    def build(self, config, model_config, images, pretrained):
        from hfgen.models.latent_presets import build_dit

        classes = len(images.told_classes())
        if classes > MOST_CLASSES:
            raise HfgenError(f"{classes} classes: a DiTPipeline has a place for {MOST_CLASSES}, use fewer")
        transformer = build_dit(model_config, images.resolution, images.channels)
        if pretrained is not None:
            pretrained.give_weights(
                transformer, config.model.pretrained_model_name_or_path, "--resolution and --autoencoder"
            )
        return transformer

    def task(self, config, module, images):
        from hfgen.families.latent.task import DiTTask, latent_settings

        return DiTTask(
            **latent_settings(config, images),
            class_names=tuple(images.class_names),
            class_dropout=config.model.class_dropout,
        )

    def sampler(self, pipeline, options, compile=False):
        from hfgen.families.latent.sampler import LatentClassSampler

        if compile:
            raise HfgenError("compile: not for diffusion transformers, leave it out")
        return LatentClassSampler(pipeline, options)

    def likelihood(self, pipeline, data, settings):
        from hfgen.families.latent.bound import ToldClasses, ddpm_bound

        network = ToldClasses(pipeline.transformer, pipeline.class_names)
        return ddpm_bound(network, pipeline.scheduler, pipeline.autoencoder, data, settings)
