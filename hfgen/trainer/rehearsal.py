"""The end of a training, tried before its first step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers.utils import logging
from safetensors import SafetensorError

from hfgen.core.errors import HfgenError, one_line
from hfgen.families.base import Family, Task
from hfgen.hub.card import render_card
from hfgen.hub.loading import load
from hfgen.trainer.random_states import random_states, set_random_states


def rehearse(family: Family, task: Task, module: torch.nn.Module, beside: Path) -> None:
    """Save the untrained pipeline into the folder `beside`, load it and render its card; no random state changes.

    Raises `HfgenError` when the result of the training would not be known for one of this family, or not be loaded.
    """
    try:
        with random_states_kept(next(module.parameters()).device), without_progress_bars():
            task.pipeline(module).save_pretrained(beside, safe_serialization=True)
            model = load(beside)
            if model.family.name != family.name:
                raise HfgenError(f"its files are taken for a {model.family.name}'s")
            render_card(model)
    except Exception as error:  # a family's code may raise anything
        reason = one_line(error) or type(error).__name__
        full = isinstance(error, (OSError, SafetensorError))
        way_out = "make room or name another folder" if full else "mend the family, or choose other flags"
        raise HfgenError(f"what a training of {family.name} leaves could not be used ({reason}): {way_out}") from error


@contextmanager
def random_states_kept(device: torch.device) -> Iterator[None]:
    """Whatever is drawn inside the block from the global generators has not been drawn after it."""
    states = random_states(device)
    try:
        yield
    finally:
        set_random_states(states, device)


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
