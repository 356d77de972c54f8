"""Tiny text-to-image models of digits on a random autoencoder, of random weights or trained for some steps."""

import json

import torch
from diffusers import StableDiffusionPipeline
from latent_repositories import autoencoder, run, save_autoencoder

from hfgen.families.text_to_image.task import sampling_scheduler
from hfgen.models.text_presets import build_text_encoder, build_text_unet
from hfgen.models.tokenizer import build_tokenizer
from hfgen.schedulers.noise import noise_scheduler

UNET = {
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 2,
    "cross_attention_dim": 8,
}
WORDS = {"caption_template": "a handwritten {}"}


def save_unet(folder):
    """The config of a noise predictor that is told words."""
    path = folder / "text_to_image.json"
    path.write_text(json.dumps(UNET))
    return path


def text_to_image(folder, **flags):
    """The folder of a model of a handful of steps; its autoencoder lies beside it."""
    vae = folder.with_name("autoencoder")
    if not vae.exists():
        save_autoencoder(vae)
    started = "pretrained_model_name_or_path" in flags
    own = {} if started else {"autoencoder": vae, "model_config_name_or_path": save_unet(folder.parent)}
    return run(folder, "text_to_image", **{**own, **WORDS, "ddpm_num_inference_steps": 2, **flags})


def save_untrained(folder, **changes):
    """The folder of one that nobody has trained, with an autoencoder of other values than the usual."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(["a handwritten seven"])
    vae = autoencoder(**changes)
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=build_text_encoder(tokenizer, UNET["cross_attention_dim"]),
        tokenizer=tokenizer,
        unet=build_text_unet(UNET, vae.config.latent_channels, 4),
        scheduler=sampling_scheduler(noise_scheduler("squaredcos_cap_v2", 1000, "v_prediction")),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder
