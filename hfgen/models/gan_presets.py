"""The two networks of a GAN by preset or config JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from hfgen.core.errors import HfgenError, one_line
from hfgen.core.memory import check_fits
from hfgen.models.configs import MadeFor, check_halvings, image_channels, load_model_config, square_size
from hfgen.models.modeling_hfgen_gan import GANDiscriminator, GANGenerator

BYTES = 4
DISCRIMINATOR = "discriminator"
# of the generator, and below "discriminator" of the other network
GAN_PRESETS: dict[str, dict[str, Any]] = {
    "digits": {
        **{"latent_size": 32, "block_out_channels": [64, 32]},
        DISCRIMINATOR: {"block_out_channels": [32, 64], "features": 64},
    },
    "mnist": {},
    "rgb-32": {
        "block_out_channels": [256, 128, 64],
        DISCRIMINATOR: {"block_out_channels": [64, 128, 256]},
    },
}

GANS_FOR = {
    "digits": MadeFor(channels=1, side=8, multiple=2),
    "mnist": MadeFor(channels=1, side=28, multiple=4),
    "rgb-32": MadeFor(channels=3, side=32, multiple=4),
}


class GANNetworks(NamedTuple):
    """Both."""

    generator: GANGenerator
    discriminator: GANDiscriminator


def load_gan_config(name_or_path: str) -> dict[str, Any]:
    """A config of `GANGenerator` with that of a `GANDiscriminator` as "discriminator"; sources and errors as `load_model_config`."""
    return load_model_config(name_or_path, GAN_PRESETS, GANGenerator, "generator")


def build_gan(config: Mapping[str, Any], resolution: int, channels: int, num_classes: int | None = None) -> GANNetworks:
    """The networks for images of (channels, resolution, resolution).

    Raises `HfgenError` when the side cannot be halved so often, when the config does not build, and when there is no memory for it.
    """
    own = {k: v for k, v in config.items() if not k.startswith("_")}
    other = own.pop(DISCRIMINATOR, {})
    if not isinstance(other, dict):
        raise HfgenError(
            f"model config: {DISCRIMINATOR}={one_line(repr(other), 60)} is no object of GANDiscriminator's arguments"
        )
    for widths, what in ((own, "this generator"), (other, "this discriminator")):
        numbers = widths.get("block_out_channels")
        if isinstance(numbers, (list, tuple)) and numbers:
            check_halvings(resolution, len(numbers) - 1, what)
    shape = {"sample_size": resolution, "in_channels": channels, "num_classes": num_classes}
    return GANNetworks(_build(GANGenerator, {**own, **shape}), _build(GANDiscriminator, {**other, **shape}))


def _build(kind: Any, values: dict[str, Any]) -> Any:
    unknown = set(values) - set(kind._get_init_keys(kind))
    if unknown:
        raise HfgenError(
            f"model config has {', '.join(sorted(unknown))}: {kind.__name__} takes no such argument; remove it"
        )
    try:
        check_gan_fits(kind, values)
        return kind(**values)
    except HfgenError:
        raise
    except Exception as error:  # for a wrong value the constructors raise anything
        raise HfgenError(
            f"{kind.__name__} cannot be built from this config ({one_line(error, 200)}): mend the config"
        ) from error


def check_gan_fits(kind: Any, config: Mapping[str, Any]) -> None:
    """Raise `HfgenError` for sizes that are none, and for a network whose weights are more than the memory that is free."""
    square_size(config.get("sample_size"), "model config")
    image_channels(config.get("in_channels"), "model config")
    with torch.device("meta"):
        parameters = sum(p.numel() for p in kind(**{**config, **_plain(kind)}).parameters())
    check_fits(BYTES * parameters, f"a {kind.__name__} of {parameters:,} parameters", "lower block_out_channels")


def _plain(kind: Any) -> dict[str, Any]:
    """Spectral norms, which computed at once take no numbers that are not there."""
    return {"spectral": False} if "spectral" in kind._get_init_keys(kind) else {}
