"""diffusers' `AutoencoderKL` by preset, config JSON, folder or repository."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL

from hfgen.core.errors import HfgenError, one_line
from hfgen.core.memory import check_fits
from hfgen.models.configs import MadeFor, check_halvings, load_model_config

BYTES_OF_A_LAYER = 20_000


def _preset(widths: list[int], latent_channels: int, norm_num_groups: int, **more: Any) -> dict[str, Any]:
    """Each level but the last halves the side; no attention, whose cost grows with the square of the pixels."""
    return {
        "block_out_channels": widths,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "layers_per_block": 1,
        "latent_channels": latent_channels,
        "norm_num_groups": norm_num_groups,
        "mid_block_add_attention": False,
        **more,
    }


AUTOENCODER_PRESETS: dict[str, dict[str, Any]] = {
    # 8x8 to 4x4
    "digits": _preset([16, 32], 2, 4),
    # 28x28 to 7x7, thin where the pixels are: for one core of a CPU
    "mnist": _preset([8, 20, 40], 4, 4),
    "grey-32": _preset([8, 20, 40], 4, 4),
    "rgb-28": _preset([16, 32, 64], 4, 8),
    "rgb-32": _preset([16, 32, 64], 4, 8),
    "rgb-64": _preset([16, 32, 64], 4, 8),
    # Rombach et al. 2022, table 8: f = 8
    "rgb-256": _preset([128, 256, 512, 512], 4, 32, layers_per_block=2, mid_block_add_attention=True),
}


def _made_for(name: str, channels: int, side: int, **more: bool) -> MadeFor:
    halvings = len(AUTOENCODER_PRESETS[name]["block_out_channels"]) - 1
    return MadeFor(channels=channels, side=side, multiple=2**halvings, **more)


AUTOENCODERS_FOR = {
    "digits": _made_for("digits", 1, 8),
    "mnist": _made_for("mnist", 1, 28),
    "grey-32": _made_for("grey-32", 1, 32),
    **{f"rgb-{side}": _made_for(f"rgb-{side}", 3, side) for side in (28, 32, 64)},
    "rgb-256": _made_for("rgb-256", 3, 256, gpu=True),
}


def load_autoencoder_config(name_or_path: str) -> dict[str, Any]:
    """A config of `AutoencoderKL`; sources and errors as `load_model_config`."""
    return load_model_config(name_or_path, AUTOENCODER_PRESETS, AutoencoderKL, "vae")


def build_autoencoder(config: Mapping[str, Any], resolution: int, channels: int) -> AutoencoderKL:
    """A new `AutoencoderKL` for images of (channels, resolution, resolution).

    Raises `HfgenError` where it cannot halve the side that often, for a config that does not build or has no 1x1 convolutions at
    its latents, and when there is no memory for it.
    """
    values = {k: v for k, v in config.items() if not k.startswith("_")}
    values |= {"sample_size": resolution, "in_channels": channels, "out_channels": channels}
    values |= {"scaling_factor": 1.0, "shift_factor": 0.0}
    unknown = set(values) - set(AutoencoderKL._get_init_keys(AutoencoderKL))
    if unknown:
        raise HfgenError(
            f"model config has {', '.join(sorted(unknown))}: AutoencoderKL takes no such argument; remove it"
        )
    if not (values.get("use_quant_conv", True) and values.get("use_post_quant_conv", True)):
        raise HfgenError(
            "model config has no use_quant_conv and use_post_quant_conv, which the measured shift goes into: set both"
        )
    _check_fits(values)
    try:
        with torch.device("meta"):
            AutoencoderKL(**values)
        autoencoder = AutoencoderKL(**values)
    except Exception as error:  # for a wrong value the constructor raises anything
        reason = f"{type(error).__name__}: {one_line(error, 200)}"
        raise HfgenError(f"AutoencoderKL cannot be built from this config ({reason}): mend the config") from error
    check_side(autoencoder, resolution)
    return autoencoder


def check_side(autoencoder: AutoencoderKL, resolution: int) -> None:
    """Raise `HfgenError` for images whose side it cannot halve as often as it does."""
    check_halvings(resolution, len(autoencoder.config.block_out_channels) - 1, "this autoencoder")


def _check_fits(values: Mapping[str, Any]) -> None:
    layers, widths = values.get("layers_per_block", 1), values.get("block_out_channels", (64,))
    if not isinstance(widths, (list, tuple)) or not all(isinstance(n, int) for n in (layers, *widths)):
        return
    weights = sum((2 * layers + 1) * (18 * 4 * width**2 + BYTES_OF_A_LAYER) for width in widths)
    what = f"an AutoencoderKL of layers_per_block={layers} and block_out_channels={one_line(list(widths), 60)}"
    check_fits(weights, what, "use fewer or narrower layers")
