"""Noise predictors of latents that are told words: `UNet2DConditionModel` by name, and the text encoder that is trained along."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers import UNet2DConditionModel

from hfgen.core.errors import HfgenError, one_line
from hfgen.models.configs import load_model_config

CROSS, PLAIN = "CrossAttn", ""
WIDTH_OF_A_HEAD = 16
TEXT_LAYERS = 2


def _preset(channels: list[int], words: list[bool], cross_attention_dim: int) -> dict[str, Any]:
    kinds = [CROSS if told else PLAIN for told in words]
    return {
        "block_out_channels": channels,
        "down_block_types": [f"{kind}DownBlock2D" for kind in kinds],
        "up_block_types": [f"{kind}UpBlock2D" for kind in reversed(kinds)],
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "attention_head_dim": [
            max(1, width // WIDTH_OF_A_HEAD) for width in channels
        ],  # heads, by the name diffusers has
        "cross_attention_dim": cross_attention_dim,
    }


TEXT_UNETS: dict[str, dict[str, Any]] = {
    "text-4": _preset([32], [True], 32),
    # 8x8 and 4x4, where the words are told: with a small autoencoder it fits 5 MB, for one core of a CPU
    "text-8": _preset([24, 48], [False, True], 48),
    "text-16": _preset([32, 64], [False, True], 64),
    "text-32": _preset([64, 96, 128], [False, True, True], 128),
}


def load_text_unet_config(name_or_path: str) -> dict[str, Any]:
    """A config of `UNet2DConditionModel`; sources and errors as `load_model_config`, but that its channels are those of latents."""
    return load_model_config(name_or_path, TEXT_UNETS, UNet2DConditionModel, "unet", latents=True)


def build_text_unet(config: Mapping[str, Any], channels: int, side: int) -> UNet2DConditionModel:
    """A `UNet2DConditionModel` of latents (channels, side, side).

    Raises `HfgenError` when the config does not build, or the side cannot be halved between its levels.
    """
    values = {k: v for k, v in config.items() if not k.startswith("_")}
    values |= {"in_channels": channels, "out_channels": channels, "sample_size": side}
    unknown = set(values) - set(UNet2DConditionModel._get_init_keys(UNet2DConditionModel))
    if unknown:
        raise HfgenError(
            f"model config has {', '.join(sorted(unknown))}: UNet2DConditionModel takes no such argument; remove it"
        )
    try:
        unet = UNet2DConditionModel(**values)
    except Exception as error:  # for a wrong value its constructor raises anything
        raise HfgenError(
            f"UNet2DConditionModel cannot be built from this config ({type(error).__name__}: {one_line(error, 200)}): mend the config"
        ) from error
    halvings = len(unet.config.block_out_channels) - 1
    if side % 2**halvings:
        raise HfgenError(
            f"latents of {side}x{side} cannot be halved {halvings} times by a UNet of {halvings + 1} levels: use another --resolution, "
            "or a model with fewer levels"
        )
    return unet


def build_text_encoder(tokenizer: Any, width: int) -> Any:
    """A `CLIPTextModel` of two layers for the words of a tokenizer, whose outputs have `width` numbers."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=TEXT_LAYERS,
            num_attention_heads=max(1, width // WIDTH_OF_A_HEAD),
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
