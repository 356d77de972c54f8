"""What is checked of a VAE's folder before it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hfgen.core.errors import HfgenError
from hfgen.core.files import read_json
from hfgen.models.vae_presets import check_vae_fits


def check_builds(folder: Path, kinds: Mapping[str, type]) -> None:
    """Raise `HfgenError` for a folder whose config one of `kinds` cannot be built from; another class is left to the loader."""
    config = read_json(folder / "vae" / "config.json")
    kind = kinds.get(config.get("_class_name"))
    if kind is None:
        return
    try:
        check_vae_fits(kind, {k: v for k, v in config.items() if not k.startswith("_") and k != "auto_map"})
    except HfgenError as error:
        raise HfgenError(f"{folder} cannot be loaded: {error}") from error
