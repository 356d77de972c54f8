"""Text-to-image models (Rombach et al. 2022): a `UNet2DConditionModel` on latents that is told words, with guidance."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from hfgen.configs.training import CaptionedData
from hfgen.families.base import Family
from hfgen.families.text_to_image.flags import TextToImageFlags, TextToImageSampling

PIPELINE = "StableDiffusionPipeline"
PARTS = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")


class TextToImage(Family):
    """A stock `StableDiffusionPipeline`. Each method imports what it needs: a command line has the flags at once."""

    name = "text_to_image"
    title = "text-to-image"
    network = "unet"
    data_flags = CaptionedData
    model_flags = TextToImageFlags
    sampling_options = TextToImageSampling
    asks = "--prompt TEXT"
    no_likelihood: ClassVar[str | None] = "hfgen measures no likelihood of images given words"

    def claims(self, index):
        """A pipeline of these five parts alone, without a safety checker or an encoder of images."""
        parts = {key for key, value in index.items() if isinstance(value, list) and value[-1] is not None}
        return index.get("_class_name") == PIPELINE and parts == set(PARTS)

    def files(self, index):
        weights = [f"{part}/*.safetensors" for part in ("vae", "text_encoder", "unet")]
        configs = [f"{part}/config.json" for part in ("vae", "text_encoder", "unet")]
        return (*configs, *weights, "scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json")

    def load(self, folder, index, variant):
        from hfgen.families.text_to_image.loading import load_pipeline

        return load_pipeline(folder, variant)

    def module(self, pipeline):
        from hfgen.families.text_to_image.module import TextConditioned

        return TextConditioned(pipeline.unet, pipeline.text_encoder, pipeline.tokenizer, trained=True)

    def image_shape(self, pipeline):
        from hfgen.families.text_to_image.loading import image_shape

        return image_shape(pipeline)

    def configs(self, pipeline):
        from hfgen.families.text_to_image.loading import configs

        return configs(pipeline)

    def resolved(self, config, pretrained):
        from hfgen.families.ddpm.pretrained import resolved_flags

        return replace(config, model=resolved_flags(config.model, pretrained))

    def preset(self, shape):
        from hfgen.models.latent_presets import nearest_preset
        from hfgen.models.text_presets import TEXT_UNETS

        return nearest_preset(TEXT_UNETS, shape[-1])

    def better_preset(self, name, shape, on_gpu):
        return None

    def image_config(self, config, model_config):
        from hfgen.data.latents import factor
        from hfgen.families.text_to_image.building import autoencoder_of

        autoencoder, side = autoencoder_of(config.model), model_config.get("sample_size")
        return autoencoder.config.in_channels, None if side is None else side * factor(autoencoder)

    def represented(self, config, images, device, show_progress):
        from hfgen.data.latents import encode_training_set
        from hfgen.families.text_to_image.building import autoencoder_of, check_side

        check_side(images)
        return encode_training_set(images, autoencoder_of(config.model), device, show_progress=show_progress)

    def model_config(self, config, pretrained):
        from hfgen.families.ddpm.task import make_objective, make_scheduler
        from hfgen.models.text_presets import load_text_unet_config

        make_objective(config.model, make_scheduler(config.model))
        if pretrained is not None:
            return dict(pretrained.pipeline.unet.config)
        name = config.model.model_config_name_or_path
        return {} if name is None else load_text_unet_config(name)

    def build(self, config, model_config, images, pretrained):
        from hfgen.families.text_to_image.building import build_module

        return build_module(config, model_config, images, pretrained)

    def task(self, config, module, images):
        from hfgen.families.ddpm.task import task_settings
        from hfgen.families.text_to_image.task import TextToImageTask, text_settings

        return TextToImageTask(
            **task_settings(config, images),
            **text_settings(module, images),
            caption_dropout=config.model.caption_dropout,
        )

    def sampler(self, pipeline, options, compile=False):
        from hfgen.families.text_to_image.sampler import TextSampler

        return TextSampler(pipeline, options, compile)

    def sampling_on(self, options, data):
        from hfgen.families.text_to_image.prompts import prompts_on

        return prompts_on(options, data)

    def card(self, pipeline, name, training, results):
        from hfgen.families.text_to_image.card import text_card

        return text_card(pipeline, name, training, results)

    def figures(self, pipeline, data, out, seed, training):
        from hfgen.families.text_to_image.figures import save_text_figures

        return save_text_figures(self, pipeline, data, out, seed, training)
