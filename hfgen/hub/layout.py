"""Repositories whose components lie in the root, as those of diffusers' first pipelines do, seen as diffusers lays them out today."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hfgen.core.errors import HfgenError
from hfgen.core.files import write_json
from hfgen.core.processes import tell

INDEX = "model_index.json"
NETWORK_CONFIG, SCHEDULER_CONFIG = "config.json", "scheduler_config.json"
NETWORK_WEIGHTS = "diffusion_pytorch_model*.safetensors"
LONE = "UNet2DModel"  # what means something without a pipeline around it


@contextmanager
def laid_out(folder: Path) -> Iterator[Path]:
    """The folder itself, or one in its place for as long as it is needed where its network lies in the root.

    A lone `UNet2DModel` gets the process of diffusers' `DDPMScheduler` as it is by default, with a warning. An `HfgenError` that
    names the folder in its place names the folder itself.
    """
    network = _class_in(folder / NETWORK_CONFIG)
    if network is None or not ((folder / INDEX).is_file() or network == LONE):
        yield folder
        return
    index = _index(folder, network)
    name = next((k for k, v in index.items() if isinstance(v, list) and v[-1] == network), None)
    if name is None or (folder / name).exists():
        yield folder
        return
    with tempfile.TemporaryDirectory() as place:
        _lay_out(folder, Path(place), index, name)
        try:
            yield Path(place)
        except HfgenError as error:
            raise HfgenError(str(error).replace(place, str(folder))) from error


def _class_in(path: Path) -> str | None:
    """The class that a config is of; None where there is none to read."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    name = config.get("_class_name") if isinstance(config, dict) else None
    return name if isinstance(name, str) else None


def _index(folder: Path, network: str) -> Mapping[str, Any]:
    """The `model_index.json`, or that of a pipeline of the network alone; empty where it cannot be read."""
    if not (folder / INDEX).is_file():
        scheduler = _class_in(folder / SCHEDULER_CONFIG) or "DDPMScheduler"
        return {"_class_name": "DDPMPipeline", "scheduler": ["diffusers", scheduler], "unet": ["diffusers", network]}
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return index if isinstance(index, dict) else {}


def _lay_out(folder: Path, place: Path, index: Mapping[str, Any], network: str) -> None:
    write_json(place / INDEX, index)
    for name, files in {network: (NETWORK_CONFIG, NETWORK_WEIGHTS), "scheduler": (SCHEDULER_CONFIG,)}.items():
        (place / name).mkdir()
        for path in (path for pattern in files for path in sorted(folder.glob(pattern))):
            _link(path.resolve(), place / name / path.name)
    if not (folder / INDEX).is_file() and not (folder / SCHEDULER_CONFIG).is_file():
        taken = "taken to predict epsilon after 1000 steps of linear betas, as diffusers' DDPMScheduler does by default"
        tell(f"{folder.name} has no scheduler: its network is {taken}")
        write_json(place / "scheduler" / SCHEDULER_CONFIG, {"_class_name": "DDPMScheduler"})


def _link(path: Path, link: Path) -> None:
    try:
        link.symlink_to(path)
    except OSError:  # some systems let administrators alone make links
        shutil.copyfile(path, link)
