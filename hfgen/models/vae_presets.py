"""VAEs by preset, config JSON, folder or repository."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from hfgen.core.errors import HfgenError, one_line
from hfgen.core.memory import check_fits
from hfgen.models.configs import MadeFor, load_model_config
from hfgen.models.modeling_hfgen_vae import MLPVAE, ConvVAE

VAE_CLASSES = {"MLPVAE": MLPVAE, "ConvVAE": ConvVAE}
SIZES = (
    "sample_size",
    "in_channels",
    "latent_size",
    "latent_sizes",
    "latent_channels",
    "hidden_sizes",
    "block_out_channels",
)


def _mlp(**values):
    return {"_class_name": "MLPVAE", "activation": "elu", **values}


def _conv(widths, latent_size, **values):
    """Of images with something at their borders."""
    return {
        "_class_name": "ConvVAE",
        "block_out_channels": widths,
        "latent_size": latent_size,
        "likelihood": "discretized_logistic",
        "latent_bound": 6.0,
        "padding_mode": "replicate",
        **values,
    }


def _rgb(widths, latent_size):
    return _conv(widths, latent_size, likelihood="discretized_logistic_rgb")


VAE_PRESETS = {
    "digits": _mlp(hidden_sizes=[128, 64], latent_size=8, likelihood="discretized_logistic"),
    "mnist-2d": _mlp(hidden_sizes=[256, 128], latent_size=2, likelihood="bernoulli"),
    # the sizes of Burda et al. 2016, one stochastic layer
    "mnist-50d": _mlp(hidden_sizes=[200, 200], latent_size=50, likelihood="bernoulli", latent_bound=6.0),
    "mnist-50d-wide": _mlp(hidden_sizes=[320, 256], latent_size=50, likelihood="bernoulli", latent_bound=6.0),
    "mnist-grey": _mlp(hidden_sizes=[200, 150], latent_size=32, likelihood="bernoulli_grey"),
    "mnist-conv": {
        "_class_name": "ConvVAE",
        "block_out_channels": [16, 32],
        "likelihood": "discretized_logistic",
        "latent_bound": 6.0,
    },
    "grey-32": _conv([32, 64], 64),
    "grey-64": _conv([32, 64, 64], 96),
    "grey-128": _conv([16, 32, 64, 64], 128),
    "rgb-28": _rgb([32, 64], 64),
    "rgb-32": _rgb([32, 64], 64),
    "rgb-64": _rgb([32, 64, 64], 96),
    "rgb-128": _rgb([16, 32, 64, 64], 128),
}


def _made_for(name: str, channels: int, side: int, default: bool = True) -> MadeFor:
    halvings = len(VAE_PRESETS[name].get("block_out_channels", ()))
    return MadeFor(channels=channels, side=side, multiple=2**halvings, default=default)


VAES_FOR = {
    "digits": _made_for("digits", 1, 8),
    # those that take pixels for black and white are not for whatever is 28x28
    **{
        name: _made_for(name, 1, 28, default=False)
        for name in ("mnist-2d", "mnist-50d", "mnist-50d-wide", "mnist-grey")
    },
    "mnist-conv": _made_for("mnist-conv", 1, 28),
    **{f"grey-{side}": _made_for(f"grey-{side}", 1, side) for side in (32, 64, 128)},
    **{f"rgb-{side}": _made_for(f"rgb-{side}", 3, side) for side in (28, 32, 64, 128)},
}


def load_vae_config(name_or_path: str) -> dict:
    """A config of `MLPVAE` or `ConvVAE`, which its "_class_name" tells; sources and errors as `load_model_config`."""
    config = load_model_config(name_or_path, VAE_PRESETS, MLPVAE, "vae")
    check_class(config, name_or_path, VAE_CLASSES)
    return config


def check_class(config: Mapping[str, Any], name: str, kinds: Mapping[str, type]) -> None:
    """Raise `HfgenError` for a config of another class."""
    if config.get("_class_name") not in list(kinds):  # a list, as the value may be unhashable
        raise HfgenError(
            f"model config {name} has _class_name={config.get('_class_name')!r}: use one of {', '.join(kinds)}"
        )


def build_vae(
    config: Mapping[str, Any], resolution: int, channels: int, kinds: Mapping[str, type] = VAE_CLASSES
) -> Any:
    """A VAE, one of `kinds`, for images of (channels, resolution, resolution).

    Raises `HfgenError` when the config does not build, and when there is no memory for it.
    """
    kind = kinds[config["_class_name"]]
    values = {k: v for k, v in config.items() if not k.startswith("_") and k != "auto_map"}
    values |= {"sample_size": resolution, "in_channels": channels}
    unknown = set(values) - set(kind._get_init_keys(kind))
    if unknown:
        raise HfgenError(
            f"model config has {', '.join(sorted(unknown))}: {kind.__name__} takes no such argument; remove it"
        )
    check_vae_fits(kind, values)
    with _building(kind, values):
        return kind(**values)


def check_vae_fits(kind: type, values: Mapping[str, Any]) -> None:
    """Raise `HfgenError` for arguments of which no VAE can be built, or one that no memory would hold."""
    with _building(kind, values), torch.device("meta"):
        parameters = kind(**values).parameters()
        size = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    shown = ", ".join(f"{name}={one_line(repr(value), 60)}" for name, value in values.items() if name in SIZES)
    check_fits(size, f"{kind.__name__} of {shown}", "make it smaller, or lower --resolution")


@contextmanager
def _building(kind: type, values: Mapping[str, Any]) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever torch raises for a wrong value
        raise HfgenError(f"{kind.__name__} cannot be built from {one_line(values)}: {one_line(error, 200)}") from error
