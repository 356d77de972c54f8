"""Networks of an autoencoder's latents: `UNet2DModel` and `DiTTransformer2DModel` by preset."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DiTTransformer2DModel

from hfgen.core.errors import HfgenError, one_line
from hfgen.models.configs import load_model_config
from hfgen.models.noise_predictor import UNET_PRESETS

NUM_EMBEDS = 1000  # the null label of DiTPipeline is the row after it


def _unet(widths: list[int], layers: int = 2) -> dict[str, Any]:
    """Attention on the smallest level alone."""
    plain = len(widths) - 1
    return {
        "block_out_channels": widths,
        "down_block_types": ["DownBlock2D"] * plain + ["AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D"] + ["UpBlock2D"] * plain,
        "layers_per_block": layers,
        "norm_num_groups": 8,
        "attention_head_dim": 16,
    }


LATENT_UNETS: dict[str, dict[str, Any]] = {
    "latent-4": _unet([48]),
    # 7x7 of MNIST cannot be halved: all at one level
    "latent-7": _unet([64]),
    "latent-8": _unet([64, 96]),
    "latent-16": _unet([64, 96, 128]),
    "latent-32": _unet([128, 256, 384]),
}


def _dit(heads: int, layers: int, patch_size: int = 1, head_dim: int = 16) -> dict[str, Any]:
    return {
        "num_attention_heads": heads,
        "attention_head_dim": head_dim,
        "num_layers": layers,
        "patch_size": patch_size,
        "attention_bias": True,
    }


DITS: dict[str, dict[str, Any]] = {
    "dit-4": _dit(3, 4),
    # 49 tokens; each layer keeps the table of 1,001 labels that the stock class has
    "dit-7": _dit(4, 6),
    "dit-8": _dit(4, 6),
    "dit-16": _dit(6, 8, 2),
    # DiT-S/2 of Peebles & Xie 2023, table 1
    "dit-32": _dit(6, 12, 2, 64),
}


def nearest_preset(presets: Mapping[str, Any], side: int) -> str:
    """That of the nearest side whose network takes latents of `side`."""
    taking = [name for name in presets if side % _multiple(presets[name]) == 0]
    return min(taking, key=lambda name: abs(math.log(side / int(name.rpartition("-")[2]))))


def _multiple(config: Mapping[str, Any]) -> int:
    """Of which a side has to be one."""
    return config.get("patch_size") or 2 ** (len(config.get("unet_config", config)["block_out_channels"]) - 1)


def load_latent_unet_config(name_or_path: str) -> dict[str, Any]:
    """A config of `UNet2DModel`; sources and errors as `load_model_config`."""
    from diffusers import UNet2DModel

    config = load_model_config(name_or_path, {**LATENT_UNETS, **UNET_PRESETS}, UNet2DModel, "unet")
    return {k: v for k, v in config.items() if k not in ("in_channels", "out_channels", "sample_size")}


def load_dit_config(name_or_path: str) -> dict[str, Any]:
    """A config of `DiTTransformer2DModel`; sources and errors as `load_model_config`."""
    config = load_model_config(name_or_path, DITS, DiTTransformer2DModel, "transformer")
    return {k: v for k, v in config.items() if k not in ("in_channels", "out_channels", "sample_size")}


def build_dit(config: Mapping[str, Any], side: int, channels: int) -> DiTTransformer2DModel:
    """A `DiTTransformer2DModel` for latents of (channels, side, side) and at most 1,000 classes.

    Its blocks begin as the identity (adaLN-Zero of Peebles & Xie 2023, section 3.2), and it withholds no class by itself.

    Raises `HfgenError` for a side that its patches do not divide, and for a config that does not build.
    """
    values = {k: v for k, v in config.items() if not k.startswith("_")}
    values |= {
        "sample_size": side,
        "in_channels": channels,
        "out_channels": channels,
        "num_embeds_ada_norm": NUM_EMBEDS,
    }
    unknown = set(values) - set(DiTTransformer2DModel._get_init_keys(DiTTransformer2DModel))
    if unknown:
        raise HfgenError(
            f"model config has {', '.join(sorted(unknown))}: DiTTransformer2DModel takes no such argument; remove it"
        )
    patch = values.get("patch_size", 2)
    if not isinstance(patch, int) or patch < 1 or side % patch:
        raise HfgenError(
            f"patch_size={one_line(repr(patch), 60)} does not divide latents of {side}x{side}: use 1, or another model"
        )
    try:
        transformer = DiTTransformer2DModel(**values)
        _start_as_identity(transformer)
    except Exception as error:  # for a wrong value the constructor raises anything
        reason = f"{type(error).__name__}: {one_line(error, 200)}"
        raise HfgenError(
            f"DiTTransformer2DModel cannot be built from this config ({reason}): mend the config"
        ) from error
    return transformer


@torch.no_grad()
def _start_as_identity(transformer: DiTTransformer2DModel) -> None:
    layers = [block.norm1.linear for block in transformer.transformer_blocks]
    for layer in (*layers, transformer.proj_out_1, transformer.proj_out_2):
        layer.weight.zero_()
        layer.bias.zero_()
    without_own_dropout(transformer)


def without_own_dropout(transformer: DiTTransformer2DModel) -> None:
    """Withhold no class in its embedding, which would draw from the global generator: who trains it says which."""
    for block in transformer.transformer_blocks:
        block.norm1.emb.class_embedder.dropout_prob = 0.0


# networks that are diffusers' own once the schedule is tabulated
LATENT_VDMS: dict[str, dict[str, Any]] = {
    name: {"prediction_type": "v_prediction", "fourier_features": [], "gamma_features": 256, "unet_config": unet}
    for name, unet in LATENT_UNETS.items()
}
