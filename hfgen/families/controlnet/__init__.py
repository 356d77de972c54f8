"""ControlNets (Zhang et al. 2023): a frozen text-to-image model that is told pictures to follow."""

from __future__ import annotations

from typing import ClassVar

from hfgen.configs.training import ControlledData
from hfgen.core.errors import HfgenError
from hfgen.families.base import Family
from hfgen.families.controlnet.flags import ControlNetFlags, ControlSampling

PIPELINE = "StableDiffusionControlNetPipeline"
PARTS = ("vae", "text_encoder", "tokenizer", "unet", "controlnet", "scheduler")
STARTS = ("text_to_image", "controlnet")


class ControlNet(Family):
    """A stock `StableDiffusionControlNetPipeline`. Each method imports what it needs."""

    name = "controlnet"
    title = "ControlNet"
    network = "controlnet"
    data_flags = ControlledData
    model_flags = ControlNetFlags
    sampling_options = ControlSampling
    asks = "--prompt TEXT --control IMAGE"
    no_likelihood: ClassVar[str | None] = "hfgen measures no likelihood of images given words and pictures"

    def claims(self, index):
        """A pipeline of these six parts alone, with one ControlNet."""
        parts = {key for key, value in index.items() if isinstance(value, list) and value[-1] is not None}
        return (
            index.get("_class_name") == PIPELINE
            and parts == set(PARTS)
            and index["controlnet"][-1] == "ControlNetModel"
        )

    def files(self, index):
        networks = [part for part in PARTS if part not in ("tokenizer", "scheduler")]
        files = [f"{part}/{file}" for part in networks for file in ("config.json", "*.safetensors")]
        return (*files, "scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json")

    def load(self, folder, index, variant):
        from diffusers import StableDiffusionControlNetPipeline

        from hfgen.families.text_to_image.loading import load_pipeline

        return load_pipeline(folder, variant, StableDiffusionControlNetPipeline)

    def image_shape(self, pipeline):
        from hfgen.families.text_to_image.loading import image_shape

        return image_shape(pipeline)

    def configs(self, pipeline):
        from hfgen.core.resume import tensors_digest
        from hfgen.families.text_to_image.loading import configs

        controlled = {name: tensors_digest(getattr(pipeline, name).state_dict()) for name in ("unet", "text_encoder")}
        return {**configs(pipeline), "controlnet": pipeline.controlnet.config, "controlled": controlled}

    def check_pretrained(self, model, config):
        if model.family.name not in STARTS:
            given = config.model.pretrained_model_name_or_path
            raise HfgenError(
                f"{given} is a {model.family.title} model: a ControlNet controls a text-to-image model, such as "
                "training/train_text_to_image.py leaves"
            )
        from hfgen.schedulers import reverse_process

        reverse_process(model.pipeline.scheduler, "fixed_small")

    def resolved(self, config, pretrained):
        if pretrained is None:
            raise HfgenError(
                "nothing to control is named: pass --pretrained_model_name_or_path, a model that training/train_text_to_image.py leaves"
            )
        from hfgen.families.controlnet.building import with_captions_of

        return with_captions_of(config, pretrained)

    def model_config(self, config, pretrained):
        channels, side, _ = self.image_shape(pretrained.pipeline)
        return {"in_channels": channels, "sample_size": side}

    def represented(self, config, images, device, show_progress):
        from hfgen.data.latents import encode_training_set
        from hfgen.families.autoencoder.loading import load_autoencoder
        from hfgen.families.text_to_image.building import check_side

        check_side(images)
        autoencoder = load_autoencoder(config.model.pretrained_model_name_or_path)
        return encode_training_set(images, autoencoder, device, show_progress=show_progress)

    def build(self, config, model_config, images, pretrained):
        from hfgen.families.controlnet.building import build_controlled

        return build_controlled(images, pretrained)

    def task(self, config, module, images):
        from hfgen.families.controlnet.task import ControlTask, control_settings

        return ControlTask(**control_settings(config, module, images))

    def sampler(self, pipeline, options, compile=False):
        from hfgen.families.controlnet.sampler import ControlSampler

        return ControlSampler(pipeline, options, compile)

    def sampling_on(self, options, data):
        from dataclasses import replace

        from hfgen.families.text_to_image.prompts import prompts_on

        told, found = prompts_on(options, data), data.companions.conditions
        return told if options.control is not None or found is None else replace(told, conditions=found)

    def sample_metrics(self, pipeline, sampler, images, draw):
        from hfgen.families.controlnet.measure import kept, kept_metrics

        transform = None if sampler.conditions is None else sampler.conditions.transform
        if transform is None:
            return {}
        pictures = sampler.followed(0, len(images))
        without = kept(draw(sampler.uncontrolled()), pictures, transform)
        return kept_metrics(kept(images, pictures, transform), without, transform)

    def card(self, pipeline, name, training, results):
        from hfgen.families.controlnet.card import control_card

        return control_card(pipeline, name, training, results)

    def figures(self, pipeline, data, out, seed, training):
        from hfgen.families.controlnet.figures import save_control_figures

        return save_control_figures(self, pipeline, data, out, seed, training)
