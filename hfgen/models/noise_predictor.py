"""The noise predictor eps_theta(x_t, t): `UNet2DModel` from a preset, a config JSON or a repository."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import UNet2DModel

from hfgen.core.errors import HfgenError, one_line
from hfgen.core.memory import check_fits
from hfgen.models.configs import MadeFor, load_model_config

# what the objects of a residual block take, whatever its width
BYTES_OF_A_LAYER = 20_000


def _preset(channels, attention, layers_per_block=1, norm_num_groups=8, attention_head_dim=16, **more):
    down = ["AttnDownBlock2D" if a else "DownBlock2D" for a in attention]
    up = ["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)]
    return {
        "block_out_channels": channels,
        "down_block_types": down,
        "up_block_types": up,
        "layers_per_block": layers_per_block,
        "norm_num_groups": norm_num_groups,
        "attention_head_dim": attention_head_dim,
        **more,
    }


UNET_PRESETS = {
    # 8x8 and 4x4
    "digits": _preset([32, 64], [False, True]),
    # 28x28, 14x14 and 7x7; its 0.7 M parameters were chosen for quality per CPU-second and fit 3 MB
    "mnist": _preset([20, 40, 60], [False, False, True], norm_num_groups=4, attention_head_dim=20),
    # the 35.7 M parameters of Ho et al. 2020, appendix B: 32x32 to 4x4, attention at 16x16
    "cifar10": _preset(
        [128, 256, 256, 256],
        [False, True, False, False],
        layers_per_block=2,
        norm_num_groups=32,
        attention_head_dim=None,
        dropout=0.1,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
    ),
}
UNET_PRESETS["mnist-fourier"] = {**UNET_PRESETS["mnist"], "time_embedding_type": "fourier"}
# for two cores of a CPU: attention at 8x8 or 7x7 alone, and the wide levels below
BY_SIDE = {
    28: _preset([32, 48, 64], [False, False, True]),
    32: _preset([32, 48, 64], [False, False, True]),
    64: _preset([32, 48, 64, 96], [False, False, False, True]),
    128: _preset([16, 24, 48, 64, 96], [False, False, False, False, True]),
}
UNET_PRESETS |= {f"rgb-{side}": config for side, config in BY_SIDE.items()}
UNET_PRESETS |= {f"grey-{side}": config for side, config in BY_SIDE.items() if side != 28}
# 0.6 M parameters, less of them at 28x28 than those of "mnist", and no attention: 1.6 times the steps a second on a CPU
UNET_PRESETS["mnist-fast"] = _preset([16, 32, 64], [False, False, False], add_attention=False)


def _made_for(name: str, channels: int, side: int, **more: bool) -> MadeFor:
    return MadeFor(
        channels=channels, side=side, multiple=2 ** (len(UNET_PRESETS[name]["block_out_channels"]) - 1), **more
    )


UNETS_FOR = {
    "digits": _made_for("digits", 1, 8),
    "mnist": _made_for("mnist", 1, 28),
    "mnist-fourier": _made_for("mnist-fourier", 1, 28, default=False),
    "mnist-fast": _made_for("mnist-fast", 1, 28, default=False),
    "cifar10": _made_for("cifar10", 3, 32, default=False, gpu=True),
    **{f"rgb-{side}": _made_for(f"rgb-{side}", 3, side) for side in BY_SIDE},
    **{f"grey-{side}": _made_for(f"grey-{side}", 1, side) for side in BY_SIDE if side != 28},
}


def load_unet_config(name_or_path: str) -> dict:
    """A config of `UNet2DModel`; sources and errors as `load_model_config`."""
    return load_model_config(name_or_path, UNET_PRESETS, UNet2DModel, "unet")


def build_unet(
    config: dict,
    resolution: int,
    channels: int,
    num_train_timesteps: int,
    learned_variance: bool = False,
    num_classes: int | None = None,
) -> UNet2DModel:
    """A `UNet2DModel` for images of (channels, resolution, resolution) and steps 0..num_train_timesteps - 1.

    With `learned_variance` it puts out twice the channels. With `num_classes` it has an embedding for each class and, the
    last, for no class.

    `time_embedding_type` is "positional" (sinusoidal), "learned", or "fourier": random Fourier features of log t
    (Tancik et al. 2020), t = timestep + 1, kept as a frozen table over the timesteps. `UNet2DModel`'s own "fourier"
    takes the log of timestep 0 and yields NaN; the table is a "learned" embedding, so stock diffusers loads it.

    Raises `HfgenError` when the resolution cannot be halved between the levels, when the config does not build or its network
    does not run, and when there is no memory for it.
    """
    values = {k: v for k, v in config.items() if not k.startswith("_")}
    out_channels = channels * (2 if learned_variance else 1)
    values |= {"sample_size": resolution, "in_channels": channels, "out_channels": out_channels}
    fourier = values.get("time_embedding_type") == "fourier"
    if fourier:
        values["time_embedding_type"] = "learned"
    if values.get("time_embedding_type") == "learned":
        values["num_train_timesteps"] = num_train_timesteps
    unknown = set(values) - set(UNet2DModel._get_init_keys(UNet2DModel))
    if unknown:
        raise HfgenError(
            f"model config has {', '.join(sorted(unknown))}: UNet2DModel takes no such argument; remove it"
        )
    if values.get("class_embed_type") is not None or (values.get("num_class_embeds") is not None and not num_classes):
        raise HfgenError(
            "model config has class embeddings, but this model is not told classes: remove them, or pass --class_conditional"
        )
    values["num_class_embeds"] = None if num_classes is None else num_classes + 1
    check_unet_fits(values)
    try:
        unet = UNet2DModel(**values)
        _try(unet, channels)
    except Exception as error:  # for a wrong value its constructor raises anything, UnboundLocalError included
        reason = f"{type(error).__name__}: {one_line(error, 200)}"
        raise HfgenError(f"UNet2DModel cannot be built from this config ({reason}): mend the config") from error
    _check_halving(resolution, len(unet.config.block_out_channels))
    if fourier:
        unet.time_proj.weight.requires_grad_(False).copy_(fourier_table(*unet.time_proj.weight.shape))
    return unet


def check_unet_fits(config: Mapping[str, Any]) -> None:
    """Raise `HfgenError` for a config of `UNet2DModel` whose weights, or whose feature maps of one image, no memory would hold.

    What is wrong otherwise is left to the constructor.
    """
    layers, widths = config.get("layers_per_block", 2), config.get("block_out_channels")
    if not isinstance(widths, (list, tuple)) or not all(isinstance(n, int) for n in (layers, *widths)):
        return
    # two 3x3 convolutions of each residual block, of which the way up has one more than the way down
    weights = sum((2 * layers + 1) * (18 * 4 * width**2 + BYTES_OF_A_LAYER) for width in widths)
    if config.get("time_embedding_type") == "learned":
        weights += 4 * widths[0] * config.get("num_train_timesteps", 0)
    what = f"a UNet2DModel of layers_per_block={layers} and block_out_channels={one_line(list(widths), 60)}"
    check_fits(weights, what, "use fewer or narrower layers, or fewer steps")
    side = config.get("sample_size")
    if isinstance(side, int) and not isinstance(side, bool):
        maps = 4 * widths[0] * side**2 * (2 * layers + 1)
        check_fits(maps, f"{what} on one image of {side}x{side}", "lower --resolution")


@torch.no_grad()
def _try(unet: UNet2DModel, channels: int) -> None:
    """Run the network on a small image of zeros: some wrong values are only met then."""
    side = 2 ** len(unet.config.block_out_channels)
    labels = None if unet.class_embedding is None else torch.zeros(1, dtype=torch.long)
    unet.eval()(torch.zeros(1, channels, side, side), 0, class_labels=labels)
    unet.train()


def _check_halving(resolution: int, levels: int):
    multiple = 2 ** (levels - 1)
    if resolution % multiple:
        above = math.ceil(resolution / multiple) * multiple
        raise HfgenError(
            f"resolution={resolution} cannot be halved {levels - 1} times by a UNet of {levels} levels: "
            f"use a multiple of {multiple} such as --resolution {above}, or a model with fewer levels"
        )


def fourier_table(num_timesteps: int, features: int, scale: float = 1.0) -> torch.Tensor:
    """Random Fourier features sqrt(2) [sin(2 pi w log t), cos(2 pi w log t)], t = 1..T, w ~ N(0, scale^2): (T, features).

    Drawn from the global generator. The log spreads the first steps, where the noise changes by its largest factor.
    """
    w = torch.randn(features // 2) * scale
    angles = 2 * math.pi * torch.arange(1, num_timesteps + 1).log()[:, None] * w
    return math.sqrt(2) * torch.cat([angles.sin(), angles.cos()], dim=1)
