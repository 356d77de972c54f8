"""Checkpoints of training state: written beside their place, renamed into it, thinned out afterwards."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors.torch import load_file, save_file

from hfgen.core.errors import HfgenError

STATE_FILE = "trainer_state.json"
EMA = "ema.safetensors"
UNFINISHED = ".unfinished-"
Tensors = dict[str, torch.Tensor]


def checkpoints(output_dir: Path) -> list[Path]:
    """The complete checkpoints of a training, oldest first."""
    found = [p for p in output_dir.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", p.name)]
    return sorted((p for p in found if (p / STATE_FILE).is_file()), key=lambda p: int(p.name.split("-")[1]))


def find_checkpoint(output_dir: Path, resume_from_checkpoint: str | None) -> Path | None:
    """The folder to resume from, None for a fresh start; `HfgenError` if a named one is not complete."""
    if resume_from_checkpoint is None:
        return None
    complete = checkpoints(output_dir)
    if resume_from_checkpoint == "latest":
        return complete[-1] if complete else None
    path = Path(resume_from_checkpoint)
    if not (path / STATE_FILE).is_file():
        names = ", ".join(p.name for p in complete) or "none"
        raise HfgenError(
            f"resume_from_checkpoint={resume_from_checkpoint!r} is no complete checkpoint; "
            f"those in {output_dir}: {names}; pass one of them, or latest"
        )
    return path


def state_file(name: str) -> str:
    """The file of a task's state of that name."""
    return f"state-{name}.safetensors"


def remove_unfinished(output_dir: Path) -> None:
    """Clear what a killed process left half written or half removed."""
    for path in output_dir.glob(f"{UNFINISHED}*"):
        shutil.rmtree(path, ignore_errors=True)


def save_checkpoint(
    accelerator: Accelerator,
    output_dir: Path,
    *,
    state: dict[str, Any],
    tensors: Mapping[str, Tensors],
    limit: int | None,
) -> None:
    """Write checkpoint-<state["step"]>; call it on every process.

    It is complete once it has its name: a kill at any moment leaves the earlier checkpoints as they were.

    Args:
        state: JSON values.
        tensors: what else belongs to it, by file name; the same on every process.
        limit: at most as many are kept, the newest always; None: all.

    Raises `HfgenError` on all processes when any cannot write; earlier checkpoints stay.
    """
    unfinished = output_dir / f"{UNFINISHED}checkpoint-{state['step']}"
    failure = _attempt(lambda: _write(accelerator, unfinished, state, tensors))
    failures = [f for f in gather_object([failure]) if f]
    if failures:
        if accelerator.is_main_process:
            shutil.rmtree(unfinished, ignore_errors=True)
        newest = checkpoints(output_dir)[-1:]
        kept = f"{newest[0].name} is kept" if newest else "there is no earlier one"
        raise HfgenError(
            f"checkpoint at step {state['step']} cannot be written to {output_dir} ({failures[0]}); {kept}: "
            "make room, then start again with --resume_from_checkpoint latest"
        )
    if accelerator.is_main_process:
        _put_in_place(unfinished, output_dir / f"checkpoint-{state['step']}")
        _thin_out(output_dir, limit)
    accelerator.wait_for_everyone()


def _attempt(action: Callable[[], None]) -> str | None:
    """What went wrong, in one line: torch and safetensors report a full disk as errors of their own kinds."""
    try:
        action()
    except Exception as error:
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return None


def _write(accelerator: Accelerator, folder: Path, state: dict[str, Any], tensors: Mapping[str, Tensors]) -> None:
    accelerator.save_state(str(folder), safe_serialization=True)
    if accelerator.is_main_process:
        for name, values in tensors.items():
            save_file(values, folder / name)
        (folder / STATE_FILE).write_text(json.dumps(state, indent=1))


def _put_in_place(unfinished: Path, target: Path) -> None:
    for path in [*unfinished.rglob("*"), unfinished]:
        _sync(path)
    if target.exists():
        _discard(target)
    os.replace(unfinished, target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _thin_out(output_dir: Path, limit: int | None) -> None:
    for path in checkpoints(output_dir)[: -limit if limit else 0]:
        _discard(path)


def _discard(path: Path) -> None:
    """Take the name away first: a half removed folder must not pass for a checkpoint."""
    doomed = path.with_name(f"{UNFINISHED}removed-{path.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    os.replace(path, doomed)
    shutil.rmtree(doomed)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The JSON state of a checkpoint."""
    return json.loads((checkpoint / STATE_FILE).read_text())


def read_tensors(checkpoint: Path, name: str) -> Tensors:
    """What `save_checkpoint` wrote into the file of that name."""
    return load_file(checkpoint / name)


def check_same_run(checkpoint: Path, saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Raise `HfgenError` naming the keys in which a checkpoint's configuration differs from the present one."""
    differing = sorted(key for key in saved.keys() | current.keys() if saved.get(key) != current.get(key))
    if differing:
        shown = "; ".join(f"{key}: {saved.get(key)} there, {current.get(key)} here" for key in differing)
        raise HfgenError(
            f"checkpoint {checkpoint} is of another configuration ({shown}): pass the same flags, or start anew"
        )
