"""Trained models from a folder or the Hub; code in them is never run."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download

from hfgen.core.errors import HfgenError, one_line
from hfgen.families.base import Family
from hfgen.families.model import Model
from hfgen.families.registry import family_of
from hfgen.hub.checks import check_configs, check_headers, check_weights, weights_variant
from hfgen.hub.errors import hub_reason
from hfgen.hub.layout import INDEX, NETWORK_WEIGHTS, laid_out

CLASS = "_class_name"
STOCK = ("diffusers", "transformers")
# weights of components, and what tokenizers are made of
DOWNLOADED = ["*.json", "*/*.safetensors", NETWORK_WEIGHTS, "*.txt", "*/*.model"]


def load(path_or_repo: str | Path, revision: str | None = None, device: torch.device | str = "cpu") -> Model:
    """A model from a folder or a repository on the Hub; code in it is never run.

    Args:
        path_or_repo: a folder, or user/name on the Hub; of the latter weights and configs are kept in the Hub's cache.
        revision: branch, tag or commit of a repository; by default main.
        device: where its networks go.

    Raises `HfgenError` when there is no such folder or repository, no network, a file missing or broken, weights that
    are not safetensors or not finite, numbers in a config that cannot be, code that is not hfgen's, or a kind of pipeline that
    hfgen does not know.
    """
    name = str(path_or_repo)
    path = Path(name).expanduser()
    local = path.exists()
    folder = _checked_folder(name, path) if local else _download(name, revision)
    with laid_out(folder) as place:
        family, pipeline, variant = _loaded(place, name)
    return Model(
        family=family,
        pipeline=pipeline.to(device),
        name=folder.resolve().name if local else name,
        folder=folder,
        variant=variant,
    )


def _loaded(place: Path, name: str) -> tuple[Family, Any, str | None]:
    """Family, pipeline and variant of the weights of a folder with one folder a component."""
    index = read_index(place, name)
    family = family_of(index, name)
    _check_code(place, index, family, name)
    missing = [pattern for pattern in family.files(index) if not any(place.glob(pattern))]
    if missing:
        raise _no_pipeline(name, missing)
    components = {key: cls for key, module, cls in named_classes(index) if module is not None and key != CLASS}
    try:
        check_headers(place, components, name)
        check_configs(place, components, name)
        family = family.for_repository(place, index)
        variant = weights_variant(place, components, name)
        pipeline = family.load(place, index, variant)
        check_weights(pipeline.components, place, variant, name)
    except HfgenError:
        raise
    except Exception as error:  # of damaged files and wrong configs the loaders of diffusers raise anything
        raise _damaged(name, error) from error
    return family, pipeline, variant


def load_folder(folder: Path) -> Model:
    """The model of a local folder; `HfgenError` where `load` has one, and for no folder."""
    if not folder.is_dir():
        raise HfgenError(f"{folder} is no folder: pass that of a pipeline, such as the --output_dir of a training")
    return load(folder)


def read_index(folder: Path, name: str) -> dict[str, Any]:
    """The model_index.json of a folder, each of whose components is a list of module and class.

    Raises `HfgenError` when there is none, or when it or one of its values is no such thing; `name` is what it calls the folder.
    """
    if not (folder / INDEX).is_file():
        raise _no_pipeline(name, [INDEX])
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(name, ValueError(f"{INDEX}: {one_line(error)}")) from error
    if not isinstance(index, dict):
        raise HfgenError(f"{name}: {INDEX} holds a {type(index).__name__}, no object: fetch it or train it again")
    for key, value in index.items():
        _check_value(key, value, name, component=(folder / key).is_dir())
    return index


def named_classes(index: Mapping[str, Any]) -> Iterator[tuple[str, str | None, str | None]]:
    """(key, module, class) of the pipeline and its components; module None for a pipeline's bare class name."""
    for key, value in index.items():
        if isinstance(value, list):
            yield (key, *value)
        elif key == CLASS:
            yield key, None, value


def is_stock(module: str) -> bool:
    """Whether diffusers finds a module of an index in itself or in transformers, whatever lies in the folder."""
    part = module.isidentifier() and importlib.util.find_spec(f"diffusers.pipelines.{module}") is not None
    return module in STOCK or part


def _check_value(key: str, value: Any, name: str, component: bool) -> None:
    """`component`: there is a folder of that name, so that the value has to be a module and a class."""
    pair = isinstance(value, list) and len(value) == 2 and all(part is None or isinstance(part, str) for part in value)
    named = isinstance(value, str) if key == CLASS else not isinstance(value, list) and not component
    if not pair and not named:
        raise HfgenError(
            f"{name}: {key} is {json.dumps(value)[:80]} in {INDEX}, not a module and a class: fetch it or train it again"
        )


def _check_code(folder: Path, index: Mapping[str, Any], family: Family, name: str) -> None:
    """Refuse whatever a loader might run: only diffusers', transformers' and the family's own classes are known."""
    for part in {Path(pattern).parts[0] for pattern in family.files(index)} & index.keys():
        if not isinstance(index[part], list):
            raise HfgenError(
                f"{name}: {part} is {json.dumps(index[part])[:80]} in {INDEX}, not a module and a class: fetch it or train it again"
            )
    for key, module, cls in named_classes(index):
        # a file of a stock module's name in the component's folder would take its place
        stock = module is None or (is_stock(module) and not (folder / key / f"{module}.py").exists())
        if not stock and (cls is None or family.own_code.get(cls) != module):
            raise HfgenError(
                f"{name} brings code of its own, which hfgen does not run ({key}: {module}.{cls}): read it, then load it with "
                "DiffusionPipeline.from_pretrained(..., trust_remote_code=True)"
            )


def _checked_folder(name: str, path: Path) -> Path:
    if not path.is_dir():
        raise HfgenError(f"{name} is a file: pass the folder that holds {INDEX}, or a repository on the Hub")
    return path


def _download(name: str, revision: str | None) -> Path:
    """The repository's weights and configs in the Hub's cache; without a network those that lie there."""
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise HfgenError(f"{name} does not exist: pass a pipeline's folder, or a repository on the Hub as user/name")
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=DOWNLOADED))
    except Exception as error:  # the client lets the errors of its HTTP library through
        raise HfgenError(hub_reason(error, name, revision)) from error


def _no_pipeline(name: str, missing: list[str]) -> HfgenError:
    return HfgenError(
        f"{name} is no pipeline that can be loaded, {', '.join(missing)} missing: "
        "pass the --output_dir of a finished training, or what save_pretrained wrote with safe_serialization"
    )


def _damaged(name: str, error: Exception) -> HfgenError:
    reason = one_line(error) or type(error).__name__
    return HfgenError(f"{name} cannot be loaded, a file is damaged or missing ({reason}): fetch it or train it again")
