"""The end of a training, tried before its first step."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from diffusers.utils import logging

from hfgen.core.errors import HfgenError
from hfgen.families.base import Family, Task
from hfgen.hub.card import render_card
from hfgen.hub.loading import load
from hfgen.trainer.checkpoints import UNFINISHED


def rehearse(family: Family, task: Task, module: torch.nn.Module, output_dir: Path) -> None:
    """Save the untrained pipeline into a folder that does not last, load it and render its card; no random state changes.

    Raises `HfgenError` when the result of the training would not be known for one of this family, or not be loaded.
    """
    beside = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=output_dir))
    try:
        with random_states_kept(), without_progress_bars():
            task.pipeline(module).save_pretrained(beside, safe_serialization=True)
            model = load(beside)
            if model.family.name != family.name:
                raise HfgenError(f"its files are taken for a {model.family.name}'s")
            render_card(model)
    except Exception as error:  # a family's code may raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise HfgenError(
            f"what a training of {family.name} leaves could not be used ({reason}): mend the family, or choose other flags"
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Whatever is drawn inside the block from the global generators has not been drawn after it."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """diffusers draws none of its bars inside the block: those of files of a small model only flicker past."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
