"""Coupling flows by preset, config JSON, folder or repository."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from hfgen.core.errors import HfgenError, one_line
from hfgen.core.memory import check_fits
from hfgen.models.configs import MadeFor, check_halvings, image_channels, load_model_config, square_size
from hfgen.models.modeling_hfgen_flow import RANGES, FlowModel

BYTES = 4
FLOW_PRESETS: dict[str, dict[str, Any]] = {
    "digits": {"scales": 1, "channels": 32, "layers": 1, "top_features": 64, "top_groups": 4},
    "mnist": {},
    "rgb-32": {"scales": 3, "channels": 64, "top_groups": 4},
    # RealNVP on the logits of pixels, with noise whose shape is learned
    "digits-affine": {
        **{"coupling": "affine", "scales": 1, "rounds": 2, "channels": 24, "layers": 1, "top_features": 64},
        "dequantization": "variational",
    },
    "mnist-affine": {"coupling": "affine", "rounds": 2, "channels": 32, "layers": 1, "dequantization": "variational"},
}

FLOWS_FOR = {
    "digits": MadeFor(channels=1, side=8, multiple=2),
    "digits-affine": MadeFor(channels=1, side=8, multiple=2, default=False),
    "mnist": MadeFor(channels=1, side=28, multiple=4),
    "mnist-affine": MadeFor(channels=1, side=28, multiple=4, default=False),
    "rgb-32": MadeFor(channels=3, side=32, multiple=8),
}


def load_flow_config(name_or_path: str) -> dict[str, Any]:
    """A config of `FlowModel`; sources and errors as `load_model_config`."""
    return load_model_config(name_or_path, FLOW_PRESETS, FlowModel, "flow")


def build_flow(config: Mapping[str, Any], resolution: int, channels: int) -> FlowModel:
    """A `FlowModel` for images of (channels, resolution, resolution).

    Raises `HfgenError` when the side cannot be halved so often, when the config does not build, and when there is no memory for it.
    """
    values = {k: v for k, v in config.items() if not k.startswith("_")}
    values |= {"sample_size": resolution, "in_channels": channels}
    unknown = set(values) - set(FlowModel._get_init_keys(FlowModel))
    if unknown:
        raise HfgenError(f"model config has {', '.join(sorted(unknown))}: FlowModel takes no such argument; remove it")
    scales, halvings = values.get("scales", 2), values.get("halvings", 1)
    if halvings in (1, 2) and scales in range(RANGES["scales"][1] + 1):  # of others the constructor tells
        check_halvings(resolution, scales * halvings, "this flow")
    try:
        check_flow_fits(values)
        return FlowModel(**values)
    except HfgenError:
        raise
    except Exception as error:  # for a wrong value the constructors raise anything
        raise HfgenError(
            f"FlowModel cannot be built from this config ({one_line(error, 200)}): mend the config"
        ) from error


def check_flow_fits(config: Mapping[str, Any]) -> None:
    """Raise `HfgenError` for sizes that are none, and for a network whose weights are more than the memory that is free."""
    square_size(config.get("sample_size"), "model config")
    image_channels(config.get("in_channels"), "model config")
    with torch.device("meta"):
        parameters = sum(p.numel() for p in FlowModel(**config).parameters())
    check_fits(BYTES * parameters, f"a flow of {parameters:,} parameters", "lower channels, layers or top_features")
