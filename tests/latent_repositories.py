"""A tiny autoencoder of digits, and trainings of models of its latents."""

import json

import torch
from diffusers import AutoencoderKL

from hfgen.cli.parser import parse_training_config
from hfgen.core.random import seeded
from hfgen.families.autoencoder.likelihood import KEY, PixelLikelihood
from hfgen.families.autoencoder.loading import fold_shift
from hfgen.families.registry import get_family
from hfgen.pipelines.autoencoder import AutoencoderPipeline
from hfgen.trainer.train import train

VAE = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "latent_channels": 2,
    "block_out_channels": [4, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "mid_block_add_attention": False,
    "scaling_factor": 1.7,
    "shift_factor": 0.0,
}
UNET = {
    "block_out_channels": [8],
    "down_block_types": ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "add_attention": False,
}
DIT = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "patch_size": 1, "attention_bias": True}
VDM = {"prediction_type": "v_prediction", "fourier_features": [], "gamma_features": 8, "unet_config": UNET}
CONFIGS = {"unet": UNET, "dit": DIT, "vdm": VDM}


def autoencoder(**changes):
    """Random weights, latents about 0."""
    torch.manual_seed(0)
    return AutoencoderKL(**{**VAE, **changes}).eval()


def save_autoencoder(folder, likelihood=True, **changes):
    """The folder of one with a likelihood of pixels, or without."""
    vae = autoencoder(**changes)
    fold_shift(vae, torch.randn(vae.config.latent_channels, generator=seeded("cpu", 1)))
    if likelihood:
        vae.register_to_config(**{KEY: PixelLikelihood().to_config()})
    AutoencoderPipeline(vae).save_pretrained(folder)
    return folder


def run(folder, family, network=None, **flags):
    """A training of 4 steps on 64 digits; returns its folder."""
    if network is not None:
        path = folder.with_name(f"{network}.json")
        path.write_text(json.dumps(CONFIGS[network]))
        flags["model_config_name_or_path"] = path
    given = {
        "dataset_name": "digits",
        "validation_split": "test",
        "max_train_samples": 64,
        "train_batch_size": 16,
        "eval_batch_size": 99,
        "max_train_steps": 4,
        "learning_rate": 1e-3,
        "lr_warmup_steps": 1,
        "save_images_epochs": 0,
        "logger": "none",
        "output_dir": folder,
        **flags,
    }
    words = [
        word
        for name, value in given.items()
        for word in ([f"--{name}"] if value is True else [f"--{name}", str(value)])
    ]
    return train(parse_training_config(get_family(family).name, words))
