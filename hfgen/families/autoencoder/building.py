"""The networks and the task that the flags of an autoencoder ask for."""

from __future__ import annotations

from typing import Any

import torch

from hfgen.configs.training import TrainingConfig
from hfgen.core.errors import HfgenError
from hfgen.data.latents import latent_shape
from hfgen.data.subset import draw_rows
from hfgen.data.training_set import TrainingSet
from hfgen.families.autoencoder.flags import AutoencoderFlags
from hfgen.families.autoencoder.likelihood import PixelLikelihood, likelihood_of
from hfgen.families.autoencoder.loading import load_autoencoder
from hfgen.families.autoencoder.perceptual import perceptual_distance
from hfgen.families.autoencoder.task import AutoencoderTask, Networks
from hfgen.models.autoencoder_presets import build_autoencoder, check_side, load_autoencoder_config
from hfgen.models.patch_discriminator import PatchDiscriminator

SHOWN = 32
LIKELIHOOD = "discretized_logistic"


def initial_config(config: TrainingConfig) -> dict[str, Any]:
    """The config to build: a preset's, a file's, or that of an autoencoder to start from; empty where none of these is named.

    Raises `HfgenError` for flags that do not go together.
    """
    model: AutoencoderFlags = config.model
    if config.run.eval_epochs:
        raise HfgenError("eval_epochs: an autoencoder draws no samples to measure: leave it out")
    if model.pretrained_autoencoder is not None:
        if model.latent_channels is not None or model.model_config_name_or_path is not None:
            raise HfgenError(
                "pretrained_autoencoder: latent_channels and model_config_name_or_path are its own, leave them out"
            )
        return dict(load_autoencoder(model.pretrained_autoencoder).config)
    if model.model_config_name_or_path is None:
        return {}
    found = load_autoencoder_config(model.model_config_name_or_path)
    return found if model.latent_channels is None else {**found, "latent_channels": model.latent_channels}


def initial_networks(model: AutoencoderFlags, config: dict[str, Any], images: TrainingSet) -> Networks:
    """A new autoencoder or a trained one, with what is trained beside it. Errors as `build_autoencoder` and `load_autoencoder`."""
    likelihood = None
    if model.pretrained_autoencoder is None:
        vae = build_autoencoder(config, images.resolution, images.channels)
    else:
        vae = load_autoencoder(model.pretrained_autoencoder).train().requires_grad_(True)
        latent_shape(vae, images.shape)
        check_side(vae, images.resolution)
        vae.register_to_config(sample_size=images.resolution)
        likelihood = likelihood_of(vae)
    if model.reconstruction == LIKELIHOOD:
        likelihood = (likelihood or PixelLikelihood()).requires_grad_(True)
    judge = PatchDiscriminator(images.channels) if model.adversarial_weight else None
    return Networks(vae, likelihood if model.reconstruction == LIKELIHOOD else None, judge)


def make_task(config: TrainingConfig, module: Networks, images: TrainingSet) -> AutoencoderTask:
    """The task of the flags; `HfgenError` for images that are not 8-bit, and as `perceptual_distance`."""
    model: AutoencoderFlags = config.model
    shown = next(iter(images.validation.batches([draw_rows(SHOWN, len(images.validation), images.labels, seed=0)])))
    if shown.dtype != torch.uint8:
        raise HfgenError(f"training images of {shown.dtype}: an autoencoder is trained on 8-bit images")
    perceptual = perceptual_distance(model.perceptual_network, images.channels) if model.perceptual_weight else None
    return AutoencoderTask(
        train=images.train,
        latent_shape=latent_shape(module.vae, images.shape),
        shown=shown,
        kl_weight=model.kl_weight,
        perceptual_weight=model.perceptual_weight,
        perceptual=perceptual,
        adversarial_weight=model.adversarial_weight,
        discriminator_start=model.discriminator_start if model.adversarial_weight else None,
        ylabel=loss_name(model),
        states={},
    )


def loss_name(model: AutoencoderFlags) -> str:
    """What the curves and the card call the loss: a bound only where it is one."""
    others = [name for name in ("perceptual", "adversarial") if getattr(model, f"{name}_weight")]
    if model.reconstruction != LIKELIHOOD:
        return " + ".join(["absolute error per pixel value", f"{model.kl_weight:g} KL", *others])
    if model.kl_weight == 1 and not others:
        return "negative bound, bits/dim"
    return " + ".join(["-log p(x|z) in bits/dim", f"{model.kl_weight:g} KL", *others])
