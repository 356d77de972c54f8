"""A tiny text-to-image repository of random weights, as stock diffusers saves it."""

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from hfgen.models.tokenizer import build_tokenizer

WORDS = "zero one two three four five six seven eight nine".split()


def text_to_image(**changes):
    """A pipeline of some 100 thousand weights that draws 16x16 grey images on latents of 4x8x8."""
    torch.manual_seed(1)
    tokenizer = build_tokenizer([f"a picture of {word}" for word in WORDS])
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vae = AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 8),
        norm_num_groups=4,
        latent_channels=4,
        sample_size=16,
    )
    unet = UNet2DConditionModel(
        **{
            "sample_size": 8,
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": (8, 16),
            "layers_per_block": 1,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "cross_attention_dim": 8,
            "attention_head_dim": 4,
            "norm_num_groups": 4,
            **changes,
        }
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDPMScheduler(clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def save_video(text, folder):
    """The folder of a video model, whose motion modules have embeddings for 6 frames, of a text-to-image one's."""
    from hfgen.families.video.motion import motion_adapter, motion_unet
    from hfgen.families.video.pipeline import AnimateDiffPipeline

    still = StableDiffusionPipeline.from_pretrained(text, safety_checker=None, requires_safety_checker=False)
    unet = motion_unet(still.unet, positions=6, heads=1)
    parts = {name: getattr(still, name) for name in ("vae", "text_encoder", "tokenizer", "scheduler")}
    AnimateDiffPipeline(unet=unet, motion_adapter=motion_adapter(unet), **parts).save_pretrained(folder)
    return folder
