"""Hierarchical VAEs by preset, config JSON, folder or repository."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hfgen.models.configs import MadeFor, load_model_config
from hfgen.models.modeling_hfgen_mhvae import MLPMHVAE, ConvMHVAE
from hfgen.models.vae_presets import build_vae, check_class

MHVAE_CLASSES: dict[str, type] = {"MLPMHVAE": MLPMHVAE, "ConvMHVAE": ConvMHVAE}


def _mlp(**values: Any) -> dict[str, Any]:
    return {"_class_name": "MLPMHVAE", "activation": "elu", **values}


def _conv(**values: Any) -> dict[str, Any]:
    """Of two layers the latents have half and a quarter of the side."""
    return {"_class_name": "ConvMHVAE", "strides": [2, 2], "latent_bound": 6.0, **values}


MHVAE_PRESETS: dict[str, dict[str, Any]] = {
    "digits": _mlp(latent_sizes=[8, 4], hidden_sizes=[[128, 64], [32]], likelihood="discretized_logistic"),
    # the latents of Burda et al. 2016, two stochastic layers, between somewhat larger hidden ones
    "mnist-2": _mlp(
        latent_sizes=[100, 50], hidden_sizes=[[256, 256], [128, 128]], likelihood="bernoulli", latent_bound=6.0
    ),
    # 7x7x8 latents under 32, 16 and 8 without a place; the linear ways keep all of them awake
    "mnist-5": _conv(
        latent_channels=[8, 32, 32, 16, 8],
        strides=[4, 7, 1, 1, 1],
        block_out_channels=[48, 64, 32, 32, 32],
        fine_channels=12,
        activation="silu",
        skip=True,
        likelihood="bernoulli",
    ),
    "mnist-8bit": _conv(
        latent_channels=[4, 8], block_out_channels=[48, 64], activation="silu", likelihood="categorical"
    ),
    "rgb-32": _conv(latent_channels=[8, 16], block_out_channels=[48, 48], likelihood="discretized_logistic_rgb"),
}

# those that take pixels for black and white are not for whatever is 28x28
MHVAES_FOR = {
    "digits": MadeFor(channels=1, side=8),
    "mnist-2": MadeFor(channels=1, side=28, default=False),
    "mnist-5": MadeFor(channels=1, side=28, multiple=28, default=False),
    "mnist-8bit": MadeFor(channels=1, side=28, multiple=4),
    "rgb-32": MadeFor(channels=3, side=32, multiple=4),
}


def load_mhvae_config(name_or_path: str) -> dict[str, Any]:
    """A config of `MLPMHVAE` or `ConvMHVAE`, which its "_class_name" tells; sources and errors as `load_model_config`."""
    config = load_model_config(name_or_path, MHVAE_PRESETS, MLPMHVAE, "mhvae")
    check_class(config, name_or_path, MHVAE_CLASSES)
    return config


def build_mhvae(config: Mapping[str, Any], resolution: int, channels: int) -> Any:
    """A hierarchical VAE for images of (channels, resolution, resolution); errors as `build_vae`."""
    return build_vae(config, resolution, channels, MHVAE_CLASSES)
