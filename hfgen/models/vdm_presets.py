"""Variational diffusion models by preset, config JSON, folder or repository."""

from __future__ import annotations

from typing import Any

import torch

from hfgen.core.errors import HfgenError, one_line
from hfgen.models.configs import MadeFor, load_model_config
from hfgen.models.modeling_hfgen_vdm import VDMModel
from hfgen.models.noise_predictor import check_unet_fits


def _unet(channels: list[int], layers_per_block: int, norm_num_groups: int, **more: Any) -> dict[str, Any]:
    """Residual blocks alone, with the one attention of the middle block."""
    return {
        "block_out_channels": channels,
        "down_block_types": ["DownBlock2D"] * len(channels),
        "up_block_types": ["UpBlock2D"] * len(channels),
        "layers_per_block": layers_per_block,
        "norm_num_groups": norm_num_groups,
        "attention_head_dim": channels[-1],
        **more,
    }


VDM_PRESETS: dict[str, dict[str, Any]] = {
    # 8x8, at full resolution
    "digits": {"gamma_features": 256, "unet_config": _unet([32], 2, 8)},
    # for a CPU: 28x28 as 14x14 patches and 7x7, a thin path at full resolution
    "mnist": {"patch_size": 2, "mixture": 2, "unet_config": _unet([48, 64], 1, 8)},
    # for a GPU, without downsampling as published: 1.3 and 8.9 M parameters
    "mnist-gpu": {"unet_config": _unet([64], 4, 32)},
    "mnist-gpu-large": {"fourier_features": [6, 7], "unet_config": _unet([128], 8, 32, dropout=0.1)},
    # Kingma et al. 2021, appendix B: 32 blocks each way, 31 M parameters
    "rgb-32": {"patch_size": 2, "unet_config": _unet([48, 64], 1, 8)},
    "cifar10": {"gamma": "fixed", "fourier_features": [6, 7], "unet_config": _unet([128], 32, 32, dropout=0.1)},
}

# "mnist" is for a CPU, and its patches of 2x2 take a side that can be halved twice, in grey and in colour
VDMS_FOR = {
    "digits": MadeFor(channels=1, side=8),
    "mnist": MadeFor(channels=1, side=28, multiple=4),
    "mnist-gpu": MadeFor(channels=1, side=28, default=False, gpu=True),
    "mnist-gpu-large": MadeFor(channels=1, side=28, default=False, gpu=True),
    "cifar10": MadeFor(channels=3, side=32, default=False, gpu=True),
    "rgb-32": MadeFor(channels=3, side=32, multiple=4),
}


def load_vdm_config(name_or_path: str) -> dict[str, Any]:
    """A config of `VDMModel`; sources and errors as `load_model_config`."""
    return load_model_config(name_or_path, VDM_PRESETS, VDMModel, "vdm")


def build_vdm(config: dict[str, Any], resolution: int, channels: int, num_classes: int | None = None) -> VDMModel:
    """A `VDMModel` for images of (channels, resolution, resolution).

    Raises `HfgenError` when the config does not build or its network does not run, and when there is no memory for it.
    """
    values = {k: v for k, v in config.items() if not k.startswith("_")}
    values |= {"sample_size": resolution, "in_channels": channels, "num_classes": num_classes}
    unknown = set(values) - set(VDMModel._get_init_keys(VDMModel))
    if unknown:
        raise HfgenError(f"model config has {', '.join(sorted(unknown))}: VDMModel takes no such argument; remove it")
    if isinstance(values.get("unet_config"), dict):
        check_unet_fits({**values["unet_config"], "sample_size": resolution})
    try:
        model = VDMModel(**values)
        _try(model)
    except Exception as error:  # for a wrong value the constructors raise anything
        raise HfgenError(
            f"VDMModel cannot be built from this config ({one_line(error, 200)}): mend the config"
        ) from error
    return model


@torch.no_grad()
def _try(model: VDMModel) -> None:
    """Run the network on an image of zeros: some wrong values are only met then."""
    config = model.config
    model.eval()(torch.zeros(1, config.in_channels, config.sample_size, config.sample_size), torch.zeros(1))
    model.train()
