"""Model configurations by name: a preset, a JSON file, a folder or a repository."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfgen.core.errors import HfgenError, one_line

LARGEST_SIDE = 2**16
OF_LATENTS = ("in_channels", "out_channels", "sample_size")


@dataclass(frozen=True, kw_only=True)
class MadeFor:
    """The images that a preset was made for.

    Attributes:
        multiple: of which their side has to be one, as the network halves it.
        default: whether it is taken where none is named; of a size and number of channels one preset is.
        gpu: whether it is too large for a CPU.
    """

    channels: int
    side: int
    multiple: int = 1
    default: bool = True
    gpu: bool = False

    def exactly(self, channels: int, side: int) -> bool:
        """Whether the images are those that it was made for."""
        return (channels, side) == (self.channels, self.side)


def check_halvings(resolution: int, halvings: int, what: str) -> None:
    """Raise `HfgenError` for images whose side cannot be halved as often as `what` does."""
    multiple = 2**halvings
    if resolution % multiple:
        raise HfgenError(
            f"resolution={resolution} cannot be halved {halvings} times, as {what} does: use a multiple of {multiple} such as "
            f"--resolution {-(-resolution // multiple) * multiple}, or a config that halves it less"
        )


def choose_preset(presets: Mapping[str, MadeFor], channels: int, side: int) -> str:
    """The name of the default for square images: of as many channels, and of the nearest side whose network can halve theirs."""
    of_colour = {name: made for name, made in presets.items() if made.default and made.channels == channels}
    halved = {name: made for name, made in of_colour.items() if side % made.multiple == 0} or of_colour
    return min(halved, key=lambda name: abs(math.log(side / halved[name].side)))


def better_preset(presets: Mapping[str, MadeFor], name: str, channels: int, side: int, on_gpu: bool) -> str | None:
    """A preset that suits square images better than the one that is named; None where that suits them, or is no preset."""
    if name not in presets:
        return None
    large = (other for other, made in presets.items() if on_gpu and made.gpu and made.exactly(channels, side))
    best = next(large, None) or choose_preset(presets, channels, side)
    suits = presets[name].exactly(channels, side) and presets[name].gpu == presets[best].gpu
    return None if suits or name == best else best


def load_model_config(
    name_or_path: str, presets: Mapping[str, dict], model_class: type, subfolder: str, *, latents: bool = False
) -> dict:
    """The config of a preset, of a JSON file, of a folder with a config.json, or of a repository on the Hub.

    `model_class` is a diffusers `ConfigMixin`; a folder or repository may be a pipeline's, with the
    model in `subfolder`. Of one of `latents` the config keeps neither channels nor size, which are the autoencoder's.

    Raises `HfgenError` for an unknown name, for a file that is no JSON object, and for a config of other images than
    `square_size` and `image_channels` take.
    """
    if name_or_path in presets:
        return dict(presets[name_or_path])
    found = _found(name_or_path, presets, model_class, subfolder)
    if latents:
        return {key: value for key, value in found.items() if key not in OF_LATENTS}
    return _of_images(found, name_or_path)


def square_size(value: Any, place: str) -> int | None:
    """The side of a config's sample_size, a number or twice the same; None where it has none, `HfgenError` for another value."""
    side = value[0] if isinstance(value, (list, tuple)) and len(value) == 2 and value[0] == value[1] else value
    if side is not None and (not _is_whole(side) or not 1 <= side <= LARGEST_SIDE):
        raise HfgenError(
            f"{place} has sample_size={one_line(repr(value), 60)}: training images are square, write the pixels of a side, "
            "such as 32, or leave it out"
        )
    return side


def image_channels(value: Any, place: str) -> int | None:
    """A config's in_channels; None where it has none, `HfgenError` for other than grey and coloured images have."""
    if value is not None and not (_is_whole(value) and value in (1, 3)):
        raise HfgenError(
            f"{place} has in_channels={one_line(repr(value), 60)}: images are grey, 1, or coloured, 3; or leave it out"
        )
    return value


def _of_images(config: dict, name: str) -> dict:
    place = f"model config {name}"
    if "in_channels" in config:
        image_channels(config["in_channels"], place)
    if "sample_size" in config:
        config["sample_size"] = square_size(config["sample_size"], place)
    return config


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _found(name_or_path: str, presets: Mapping[str, dict], model_class: type, subfolder: str) -> dict:
    path = Path(name_or_path)
    if path.suffix == ".json":
        return _read_json(path)
    for folder in (path / subfolder, path):
        if (folder / "config.json").is_file():
            return _read_json(folder / "config.json")
    found = None
    for place in ({"subfolder": subfolder}, {}):
        try:
            return dict(model_class.load_config(name_or_path, **place))
        except (OSError, ValueError, TypeError) as error:  # a config of the wrong shape is a TypeError to diffusers
            found = error
    raise HfgenError(
        f"model_config_name_or_path={name_or_path!r} is no preset ({', '.join(presets)}), no config JSON, "
        "no folder with a config.json and no repository that can be reached: pass one of these"
    ) from found


def _read_json(path: Path) -> dict:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise HfgenError(
            f"model config {path}: {one_line(error)}; pass a JSON file of the model's arguments"
        ) from error
    if not isinstance(config, dict):
        raise HfgenError(
            f"model config {path} holds a {type(config).__name__}: pass an object of the model's arguments"
        )
    return config
