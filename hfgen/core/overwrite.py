"""What may take the place of which file: nothing that somebody else wrote is lost."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from hfgen.core.errors import HfgenError

INDEX_FILE = "model_index.json"
# what a pipeline's folder needs at its top, or what its trainer goes on with
OWN_FILES = (INDEX_FILE, "README.md", "training.json", "history.jsonl")
SIGNATURES = {"PNG": (b"\x89PNG\r\n\x1a\n",), "GIF": (b"GIF87a", b"GIF89a")}


def check_replaceable(flag: str, path: Path, ours: Callable[[Path], bool], what: str, *, overwrite: bool) -> None:
    """Raise `HfgenError` where writing to `path`, the value of `flag` or beside it, would lose a file of somebody else.

    A file that there is must be one of `ours`, which the message calls `what`, or `overwrite` be set. Never replaced are parts
    of a pipeline and what is no plain file, such as /dev/null.
    """
    owner = _pipeline_of(path)
    if owner is not None:
        raise HfgenError(f"{flag} {path} is a part of the pipeline in {owner}: name another file")
    if not os.path.lexists(path):
        return
    if not path.is_file() and not path.is_symlink():
        raise HfgenError(f"{flag} {path} is no plain file: name another")
    if not overwrite and not (path.is_file() and ours(path)):
        raise HfgenError(f"{flag} {path} holds no {what} of hfgen: name another, or pass --overwrite to replace it")


def check_picture(flag: str, path: Path, kind: str) -> None:
    """Raise `HfgenError` as `check_replaceable`, for a file to become a "PNG" or "GIF" that is there and is none."""
    check_replaceable(flag, path, lambda _: True, kind, overwrite=False)
    if os.path.lexists(path) and not is_picture(path, kind):
        raise HfgenError(f"{flag} {path} is there and no {kind}: name another file")


def is_picture(path: Path, kind: str) -> bool:
    """Whether a file begins as a "PNG" or "GIF" does."""
    try:
        with path.open("rb") as file:
            return file.read(8).startswith(SIGNATURES[kind])
    except OSError:
        return False


def _pipeline_of(path: Path) -> Path | None:
    """The folder of the pipeline that a file is, or would be, a part of."""
    place = path.parent.resolve() / path.name
    for folder in place.parents:
        index = _index(folder)
        first, *rest = place.relative_to(folder).parts
        if index is None:
            continue
        if not rest and (first in OWN_FILES or first.endswith(".py")):
            return folder
        if rest and first in index:
            return folder
    return None


def _index(folder: Path) -> dict | None:
    path = folder / INDEX_FILE
    if not path.is_file():
        return None
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        index = None
    return index if isinstance(index, dict) else {}
