"""What can be chosen of an autoencoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hfgen.configs.flags import NOT_NEGATIVE, POSITIVE, flag


@dataclass(frozen=True, kw_only=True)
class AutoencoderFlags:
    """The flags of train_autoencoder.py that are an autoencoder's own."""

    _argument_group_name = "autoencoder"

    model_config_name_or_path: str | None = flag(
        None,
        "digits, mnist, grey-32, rgb-28, rgb-32, rgb-64, rgb-256, a config JSON of AutoencoderKL, a folder or repository; none: "
        "the preset of the images' size and channels",
    )
    pretrained_autoencoder: str | None = flag(
        None, "folder or repository of an AutoencoderKL to start from, instead of model_config_name_or_path"
    )
    latent_channels: int | None = flag(None, "channels of the latents; none: the config's", range=POSITIVE)
    reconstruction: Literal["discretized_logistic", "l1"] = flag(
        "discretized_logistic",
        "p(x|z): a likelihood of the 256 values, whose bound is one on log p(x); or the absolute error, of which there is none",
        card="always",
    )
    kl_weight: float = flag(
        0.1, "of KL(q(z|x) || N(0, I)) beside the reconstruction, both per pixel; 1: the bound", range=NOT_NEGATIVE
    )
    perceptual_weight: float = flag(
        0.0, "of the distance of perceptual_network's features; 0: none", range=NOT_NEGATIVE
    )
    perceptual_network: str = flag(
        "digits", "classifier of perceptual_weight: digits, the shipped one, or a folder or repository of transformers"
    )
    adversarial_weight: float = flag(
        0.0,
        "of a patch discriminator's loss, beside the adaptive weight (Esser et al. 2021); 0: none",
        range=NOT_NEGATIVE,
    )
    discriminator_start: int = flag(
        0, "optimizer step from which the discriminator counts and learns", range=NOT_NEGATIVE
    )


@dataclass(frozen=True, kw_only=True)
class AutoencoderLikelihood:
    """How its bound is evaluated: one draw of z for each image."""
