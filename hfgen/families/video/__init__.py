"""Models of clips: motion modules in a text-to-image model that stays as it is, trained on noise that frames share."""

from __future__ import annotations

from typing import ClassVar

from hfgen.configs.training import ClipData
from hfgen.core.errors import HfgenError
from hfgen.families.base import Family
from hfgen.families.video.flags import PARTS, VideoFlags, VideoSampling

PIPELINE = "AnimateDiffPipeline"


class Video(Family):
    """A stock `AnimateDiffPipeline`. Each method imports what it needs: a command line has the flags at once."""

    name = "video"
    title = "video diffusion"
    network = "unet"
    data_flags = ClipData
    model_flags = VideoFlags
    sampling_options = VideoSampling
    asks = "--prompt TEXT"
    no_likelihood: ClassVar[str | None] = "hfgen knows no likelihood of clips"

    def claims(self, index):
        return index.get("_class_name") == PIPELINE

    def files(self, index):
        adapter = index.get("motion_adapter")
        has_one = isinstance(adapter, list) and adapter[-1:] != [None]
        return [f"{name}/*" for name in (*PARTS, *(["motion_adapter"] if has_one else []))]

    def load(self, folder, index, variant):
        from hfgen.families.video.pipeline import AnimateDiffPipeline

        pipeline = AnimateDiffPipeline.from_pretrained(folder, use_safetensors=True, variant=variant)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def image_shape(self, pipeline):
        """(F, C, H, W) of its clips."""
        from hfgen.families.text_to_image.loading import image_shape
        from hfgen.families.video.stored import clip_frames

        return clip_frames(pipeline), *image_shape(pipeline)

    def configs(self, pipeline):
        from hfgen.families.text_to_image.loading import configs
        from hfgen.families.video.stored import clip_frames, noise_share

        told = {"shared_noise": noise_share(pipeline), "num_frames": clip_frames(pipeline)}
        return {**configs(pipeline), "clips": told}

    def check_pretrained(self, model, config):
        from hfgen.families.video.building import check_start

        check_start(model, config.model.pretrained_model_name_or_path)

    def model_config(self, config, pretrained):
        from hfgen.families.video.building import clip_config

        return clip_config(config, pretrained)

    def represented(self, config, images, device, show_progress):
        from hfgen.data.latents import encode_training_set
        from hfgen.families.autoencoder.loading import load_autoencoder

        autoencoder = load_autoencoder(config.model.pretrained_model_name_or_path)
        return encode_training_set(images, autoencoder, device, shape=images.shape, show_progress=show_progress)

    def build(self, config, model_config, images, pretrained):
        from hfgen.families.video.building import build_motion

        return build_motion(config.model, images, pretrained)

    def task(self, config, module, images):
        from hfgen.families.video.task import make_task

        return make_task(config, module, images)

    def sampler(self, pipeline, options, compile=False):
        from hfgen.families.video.sampler import VideoSampler

        if compile:
            raise HfgenError("compile: not for models of clips, leave it out")
        return VideoSampler(pipeline, options)

    def sampling_on(self, options, data):
        import torch

        from hfgen.families.text_to_image.prompts import prompts_on

        (first,) = data.images.batches([torch.zeros(1, dtype=torch.long)])
        frames = first.shape[1]
        if options.num_frames not in (None, frames):
            raise HfgenError(
                f"num_frames={options.num_frames}: clips are measured beside those of the data, of {frames} frames as in training: "
                "leave it out"
            )
        return prompts_on(options, data)

    def card(self, pipeline, name, training, results):
        from hfgen.families.video.card import video_card

        return video_card(pipeline, name, training, results)

    def figures(self, pipeline, data, out, seed, training):
        from hfgen.families.video.figures import save_video_figures

        return save_video_figures(self, pipeline, data, out, seed, training)
