"""Tiny repositories of random weights, as stock diffusers saves them."""

import json

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

UNET = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": [8, 8],
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "add_attention": False,
}


def unet(**changes):
    """A network of some thousand weights."""
    torch.manual_seed(1)
    channels = {"out_channels": changes["in_channels"]} if "in_channels" in changes else {}
    return UNet2DModel(**{**UNET, **channels, **changes})


def save(folder, scheduler=None, pipeline=DDPMPipeline, variant=None, **changes):
    """The folder of such a network and a scheduler."""
    pipeline(unet(**changes), DDPMScheduler(25) if scheduler is None else scheduler).save_pretrained(
        folder, variant=variant
    )
    return folder


def change(path, **values):
    """Values of a JSON file, None removing none."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
