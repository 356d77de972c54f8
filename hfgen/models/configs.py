"""Model configurations by name: a preset, a JSON file, a folder or a repository."""

from __future__ import annotations

import json
from pathlib import Path

from hfgen.core.errors import HfgenError


def load_model_config(name_or_path: str, presets: dict[str, dict], model_class: type, subfolder: str) -> dict:
    """The config of a preset, of a JSON file, of a folder with a config.json, or of a repository on the Hub.

    `model_class` is a diffusers `ConfigMixin`; a folder or repository may be a pipeline's, with the
    model in `subfolder`.

    Raises `HfgenError` for an unknown name and for a file that is no JSON object.
    """
    if name_or_path in presets:
        return dict(presets[name_or_path])
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
        except (OSError, ValueError) as error:
            found = error
    raise HfgenError(
        f"model_config_name_or_path={name_or_path!r} is no preset ({', '.join(presets)}), no config JSON, "
        "no folder with a config.json and no repository that can be reached: pass one of these"
    ) from found


def _read_json(path: Path) -> dict:
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise HfgenError(f"model config {path}: {error}; pass a JSON file of the model's arguments") from error
    if not isinstance(config, dict):
        raise HfgenError(
            f"model config {path} holds a {type(config).__name__}: pass an object of the model's arguments"
        )
    return config
