"""Repositories that load where this project is not installed. Files that ship to the Hub hold marked copies of this."""

from __future__ import annotations

import copy
import inspect
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, DiffusionPipeline, ModelMixin, SchedulerMixin

# what goes to the Hub's client and not to the class whose weights are read or written
HUB_LOADING = ("cache_dir", "token", "revision", "local_files_only", "force_download")
HUB_PUSHING = ("repo_id", "commit_message", "private", "token", "create_pr")


def save_with_code(
    pipeline: DiffusionPipeline,
    save_directory: str | os.PathLike,
    *,
    index: dict[str, Any],
    push: Callable[..., Any] | None,
    **kwargs: Any,
) -> None:
    """Save weights and configs, the code of classes that diffusers has not, and a `model_index.json` by which both are found.

    Args:
        index: what `model_index.json` holds beside the classes.
        push: called with the repository's name and what of `kwargs` is for the Hub, when the folder is whole; or None.
        kwargs: of `DiffusionPipeline.save_pretrained`, which would upload before the code lies there.
    """
    folder = Path(save_directory)
    hub = {k: kwargs.pop(k) for k in HUB_PUSHING if k in kwargs}
    DiffusionPipeline.save_pretrained(pipeline, os.fspath(folder), **kwargs)
    path = folder / pipeline.config_name
    named = save_code(type(pipeline), folder)
    index = {
        # a list would send diffusers to look for code
        "_class_name": named[1] if is_stock(type(pipeline)) else named,
        "_diffusers_version": json.loads(path.read_text())["_diffusers_version"],
        **index,
        **{name: save_code(type(part), folder / name) for name, part in pipeline.components.items()},
    }
    path.write_text(json.dumps(index, indent=2) + "\n")
    if push is not None:
        hub |= {k: kwargs[k] for k in ("safe_serialization", "variant") if k in kwargs}
        push(hub.pop("repo_id", folder.resolve().name), **hub)


def save_code(cls: type, folder: Path) -> list[str]:
    """Copy the file of a class that diffusers has not; returns [module, class] as `model_index.json` names it."""
    if is_stock(cls):
        return ["diffusers", cls.__name__]
    source = Path(inspect.getsourcefile(cls))
    if source.resolve() != (folder / source.name).resolve():
        shutil.copyfile(source, folder / source.name)
    return [source.stem, cls.__name__]


def is_stock(cls: type) -> bool:
    """Whether diffusers has the class."""
    return cls.__module__.split(".")[0] == "diffusers"


def without_origin(model: ModelMixin) -> ModelMixin:
    """`model`, its weights shared, without the path that it was loaded from in its config."""
    model = copy.copy(getattr(model, "_orig_mod", model))
    model._internal_dict = type(model.config)({k: v for k, v in model.config.items() if k != "_name_or_path"})
    return model


def scheduler_to_save(scheduler: SchedulerMixin) -> SchedulerMixin:
    """The scheduler of diffusers that does what `scheduler` does, or `scheduler`, if it knows what they do not.

    A `DDPMScheduler` of another class becomes that very class, with the keys of its config and no other; but one whose
    prediction_type is "mu", which diffusers has not, stays, and its code is saved with it.

    Raises `ValueError` if the betas differ, or if there is no such scheduler.
    """
    if is_stock(type(scheduler)) or scheduler.config.get("prediction_type") == "mu":
        return scheduler
    if not isinstance(scheduler, DDPMScheduler):
        raise ValueError(f"{type(scheduler).__name__} is not a scheduler of diffusers: this pipeline saves no code")
    known = set(inspect.signature(DDPMScheduler.__init__).parameters) - {"self"}
    stock = DDPMScheduler(**{k: v for k, v in scheduler.config.items() if k in known})
    if not torch.allclose(stock.betas.double(), scheduler.betas.double(), rtol=1e-5, atol=0):
        raise ValueError(
            f"{type(scheduler).__name__}: DDPMScheduler makes other betas from its config; set trained_betas"
        )
    return stock
