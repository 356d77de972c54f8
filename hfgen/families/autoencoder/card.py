"""What the card of an autoencoder tells."""

from __future__ import annotations

from typing import Any

from hfgen.data.latents import factor
from hfgen.families.autoencoder.likelihood import KEY
from hfgen.families.base import Card
from hfgen.families.words import image_words, parameter_words

USAGE = """```python
import torch
from diffusers import AutoencoderKL

vae = AutoencoderKL.from_pretrained("{name}", subfolder="vae")
images = torch.rand(4, {channels}, {size}, {size}) * 2 - 1  # in [-1, 1]
latents = vae.encode(images).latent_dist.sample() * vae.config.scaling_factor
again = vae.decode(latents / vae.config.scaling_factor).sample
```

It needs no code of this repository. Latents of its training images, times `scaling_factor`, have variance 1{shift}.
A model of the latents is trained by `training/train_ddpm.py --autoencoder {name}`.

With hfgen on the command line:
"""
SHIFT = """ and mean 0: the mean lies in the weights
(`shift_factor` is 0), as stock pipelines do not take it off"""
SCALE_NOTE = (
    "The scale of its likelihood, a function of the decoded value, lies in vae/config.json; diffusers does not read it."
)


def autoencoder_card(pipeline: Any, name: str) -> Card:
    """The card of a pipeline with a `vae` alone."""
    config, f = pipeline.vae.config, factor(pipeline.vae)
    known = config.get(KEY) is not None
    kind = "discretised logistic likelihood of 8-bit pixels" if known else "no likelihood of pixels"
    size = config.sample_size
    return Card(
        summary=(
            f"An autoencoder (Kingma & Welling 2014; Rombach et al. 2022) of {image_words(config.in_channels, size)} into "
            f"{config.latent_channels} channels of a {f} times smaller side: {parameter_words(pipeline.vae)}, {kind}."
        ),
        usage=USAGE.format(
            name=name,
            channels=config.in_channels,
            size=size,
            shift=SHIFT if pipeline.vae.quant_conv is not None else "",
        ),
        samples="Held-out images, each above its reconstruction.",
        results="The floor of PSNR and SSIM is of images shrunk by the same factor; a perfect autoencoder's Frechet distance is 0."
        + (f" {SCALE_NOTE}" if known else ""),
        limits=["It draws nothing by itself: its latents need a model."],
        tags=["autoencoder", "vae"],
        pictures={"reconstructions": "Held-out images, each above its reconstruction."},
    )
