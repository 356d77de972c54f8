"""Checkpoints: written beside their place, renamed into it, thinned out afterwards; whole, or known to be damaged."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hfgen.core.errors import HfgenError, explain, one_line
from hfgen.core.files import read_json

if TYPE_CHECKING:
    from hfgen.trainer.output import OutputFolder

STATE_FILE = "trainer_state.json"
DIGESTS_FILE = "digests.json"
LAYOUT = 2
NAME = re.compile(r"checkpoint-(\d+)")
PICKLED = (".bin", ".pkl", ".pt")
CHUNK = 1 << 20
SHOWN_DIGITS = 12
Tensors = dict[str, torch.Tensor]


class Damaged(Exception):
    """Of a checkpoint that is not as it was written; the text says what of it."""


def checkpoints(output_dir: Path) -> list[Path]:
    """The complete checkpoints of a training, oldest first."""
    found = [p for p in output_dir.glob("checkpoint-*") if NAME.fullmatch(p.name) and (p / STATE_FILE).is_file()]
    return sorted(found, key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def half_removed(output_dir: Path, listed: Iterable[str]) -> list[str]:
    """Those of the listed files that belong to a checkpoint whose state is gone: it went first."""
    return [
        name
        for name in listed
        if NAME.fullmatch(folder := name.partition("/")[0]) and not (output_dir / folder / STATE_FILE).is_file()
    ]


def find_checkpoint(output_dir: Path, resume_from_checkpoint: str | None) -> Path | None:
    """The folder to resume from, None for a fresh start.

    "latest" is the newest one that is whole; a line on stderr tells of those that are not. Another name is that of a checkpoint
    in `output_dir`, or a path.

    Raises `HfgenError` for one that is not complete, damaged, or written by another version, and where none is whole.
    """
    if resume_from_checkpoint is None:
        return None
    complete = checkpoints(output_dir)
    if resume_from_checkpoint == "latest":
        return _newest_whole(complete)
    own = output_dir / resume_from_checkpoint
    path = own if own in complete else Path(resume_from_checkpoint)
    if not (path / STATE_FILE).is_file():
        names = ", ".join(p.name for p in complete) or "none"
        raise HfgenError(
            f"resume_from_checkpoint={resume_from_checkpoint!r} is no complete checkpoint; "
            f"those in {output_dir}: {names}; pass one of them, or latest"
        )
    try:
        check_whole(path)
    except Damaged as damage:
        raise HfgenError(f"checkpoint {path} is damaged ({damage}): name another, or pass latest") from damage
    return path


def _newest_whole(complete: list[Path]) -> Path | None:
    for path in reversed(complete):
        try:
            check_whole(path)
        except Damaged as damage:
            print(f"checkpoint {path} is damaged ({damage}): it is passed over", file=sys.stderr)
        else:
            return path
    if complete:
        raise HfgenError(f"no checkpoint in {complete[0].parent} is whole: remove them to start fresh")
    return None


def check_whole(checkpoint: Path) -> None:
    """Raise `Damaged` unless every file is as it was written; `HfgenError` for a checkpoint of another version of hfgen."""
    if not (checkpoint / DIGESTS_FILE).is_file() and any(p.suffix in PICKLED for p in checkpoint.iterdir()):
        raise HfgenError(
            f"checkpoint {checkpoint} was written by hfgen 0.1 and holds pickles, which can run code: it is not read; go on "
            "with that version, or start anew"
        )
    for name, digest in _digests(checkpoint).items():
        if not (checkpoint / name).is_file():
            raise Damaged(f"{name} is missing")
        if _sha256(checkpoint / name) != digest:
            raise Damaged(f"{name} is not as it was written")
    layout = read_state(checkpoint).get("layout")
    if layout != LAYOUT:
        raise HfgenError(f"checkpoint {checkpoint} was written by another version of hfgen (layout {layout}): use that")


def _digests(checkpoint: Path) -> dict[str, str]:
    try:
        digests = read_json(checkpoint / DIGESTS_FILE)
    except HfgenError as error:
        raise Damaged(f"{DIGESTS_FILE} is missing or no JSON") from error
    if not isinstance(digests, dict) or STATE_FILE not in digests or any(Path(name).name != name for name in digests):
        raise Damaged(f"{DIGESTS_FILE} is no list of its files")
    return digests


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def save_checkpoint(
    output: OutputFolder, *, state: Mapping[str, Any], files: Mapping[str, Tensors], limit: int | None
) -> None:
    """Write checkpoint-<state["step"]>, on one process.

    It is complete once it has its name: a kill at any moment leaves the earlier checkpoints as they were.

    Args:
        state: JSON values.
        files: tensors by file name.
        limit: at most as many are kept of those up to this step, the newest always; None: all.

    Raises `HfgenError` when it cannot be written; earlier checkpoints stay.
    """
    with failure_told(output, state["step"]), output.beside() as beside:
        complete_checkpoint(output, beside, state=state, files=files, limit=limit)


def complete_checkpoint(
    output: OutputFolder, beside: Path, *, state: Mapping[str, Any], files: Mapping[str, Tensors], limit: int | None
) -> None:
    """`save_checkpoint` in a folder beside its place, which may hold files of it already."""
    step = state["step"]
    _write(beside, state, files)
    _put_in_place(output, beside, f"checkpoint-{step}")
    thin_out(output, step, limit)


@contextmanager
def failure_told(output: OutputFolder, step: int) -> Iterator[None]:
    """What keeps the checkpoint of a step from being written is raised as `HfgenError`, which tells what there is to go on from."""
    try:
        yield
    except (OSError, SafetensorError, HfgenError) as error:
        newest = checkpoints(output.path)[-1:]
        kept = f"{newest[0].name} is kept" if newest else "there is no earlier one"
        raise HfgenError(
            f"checkpoint at step {step} cannot be written to {output.path} ({one_line(reason(error), 200)}); {kept}: "
            "make room, then start again with --resume_from_checkpoint latest"
        ) from error


def thin_out(output: OutputFolder, step: int, limit: int | None) -> None:
    """Keep the newest `limit` checkpoints of those up to a step; None: all. Later ones are not counted and stay."""
    up_to = [path for path in checkpoints(output.path) if _step(path) <= step]
    for path in up_to[: -limit if limit else 0]:
        _discard(output, path.name)


def reason(error: Exception) -> str:
    """Why files cannot be written, in one line: safetensors reports a full disk as an error of its own."""
    return one_line(error) if isinstance(error, SafetensorError) else explain(error)


def _write(folder: Path, state: Mapping[str, Any], files: Mapping[str, Tensors]) -> None:
    for name, tensors in files.items():
        save_file(tensors, folder / name)
    (folder / STATE_FILE).write_text(json.dumps({"layout": LAYOUT, **state}, indent=1), encoding="utf-8")
    digests = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    (folder / DIGESTS_FILE).write_text(json.dumps(digests, indent=1), encoding="utf-8")
    for path in [*folder.iterdir(), folder]:
        _sync(path)


def _put_in_place(output: OutputFolder, beside: Path, name: str) -> None:
    target = output.path / name
    _discard(output, name)
    output.manifest.add(*(f"{name}/{path.name}" for path in beside.iterdir()))
    if target.is_dir():  # somebody's files are there too: they stay, and the state comes last
        for path in sorted(beside.iterdir(), key=lambda p: p.name == STATE_FILE):
            os.replace(path, target / path.name)
    else:
        os.replace(beside, target)
    _sync(output.path)


def _discard(output: OutputFolder, name: str) -> None:
    """Remove the files of a checkpoint, its state first: what a kill leaves of it must not pass for one."""
    listed = [file for file in sorted(output.manifest.files) if file.startswith(f"{name}/")]
    output.manifest.remove(sorted(listed, key=lambda file: file != f"{name}/{STATE_FILE}"))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The JSON state of a checkpoint; `Damaged` when there is none."""
    try:
        state = read_json(checkpoint / STATE_FILE)
    except HfgenError as error:
        raise Damaged(str(error)) from error
    if not isinstance(state, dict):
        raise Damaged(f"{STATE_FILE} is no object")
    return state


def read_tensors(checkpoint: Path, name: str) -> Tensors:
    """What `save_checkpoint` wrote into the file of that name, in memory: the file may be replaced meanwhile."""
    return {key: value.clone() for key, value in load_file(checkpoint / name).items()}


def written_files(checkpoint: Path) -> list[str]:
    """The names of the files of a checkpoint below the output folder; none for one that is damaged."""
    try:
        return [f"{checkpoint.name}/{name}" for name in (DIGESTS_FILE, *_digests(checkpoint))]
    except Damaged:
        return []


def is_longer(state: Mapping[str, Any], current: Mapping[str, Any]) -> bool:
    """Whether a checkpoint is the end of its training and the present configuration asks for more steps than that."""
    end = state.get("identity", {}).get("max_steps")
    return end is not None and state["step"] == end and current.get("max_steps", 0) > end


# what trainings did that began before there was a choice
OF_BEFORE = {"optimizer": "adamw"}


def check_same_run(checkpoint: Path, saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Raise `HfgenError` naming the keys in which a checkpoint's configuration differs from the present one."""
    saved = {**{key: value for key, value in OF_BEFORE.items() if key in current}, **saved}
    keys = sorted(saved.keys() | current.keys())
    differing = [key for key in keys if _differ(saved.get(key), current.get(key))]
    if differing == ["lanes"]:
        raise HfgenError(
            f"checkpoint {checkpoint} reads its stream in {saved['lanes']} lanes, and these processes would in {current['lanes']}: start a "
            f"number of processes that divides {saved['lanes']}, with the same whole batch"
        )
    if differing:
        shown = "; ".join(
            f"{key}: {_shown(saved.get(key))} there, {_shown(current.get(key))} here" for key in differing
        )
        raise HfgenError(
            f"checkpoint {checkpoint} is of another configuration ({shown}): pass the same flags and images, or start anew"
        )


def _differ(one: Any, other: Any) -> bool:
    """Digests of two kinds, as of images in memory and on disk, cannot be compared."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys() == {"kind", "digest"}:
        return one["kind"] == other["kind"] and one["digest"] != other["digest"]
    return one != other


def _shown(value: Any) -> str:
    return f"{value['digest']}"[:SHOWN_DIGITS] if isinstance(value, dict) and "digest" in value else f"{value}"
