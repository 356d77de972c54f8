"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hfgen.core.errors import HfgenError, one_line, way_out

LONGEST_PREFIX = 100
SUFFIX = ".part"


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A new file beside `path` to write to, which takes its place at the end of the block.

    Its name cannot be foreseen and it is never opened through a link; a link at `path` itself is replaced, what it points to
    stays. When the block fails nothing is left.

    Raises `HfgenError` when it cannot be written, as on a full disk, and for a folder or device at `path`.
    """
    beside = None
    try:
        if path.exists() and not path.is_file():
            raise HfgenError(f"{path} is no file that can be replaced: name another")
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:LONGEST_PREFIX]}.", suffix=SUFFIX, dir=path.parent)
        os.close(descriptor)
        beside = Path(name)
        yield beside
        beside.chmod(0o666 & ~_umask())  # mkstemp's file is its owner's alone
        os.replace(beside, path)
    except OSError as error:
        raise HfgenError(f"{path} cannot be written ({error.strerror or error}): {way_out(error)}") from error
    finally:
        if beside is not None:
            beside.unlink(missing_ok=True)


def left_beside(paths: Iterable[Path]) -> Iterator[Path]:
    """The files that killed processes were filling, by `whole`, to become one of `paths`."""
    wanted = {(path.parent, path.name[:LONGEST_PREFIX]) for path in paths}
    for folder in {folder for folder, _ in wanted}:
        for part in folder.glob(f".*{SUFFIX}"):
            if (folder, part.name[1:].removesuffix(SUFFIX).rpartition(".")[0]) in wanted:
                yield part


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write a text file, in one step; `HfgenError` as `whole`."""
    with whole(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON values, in one step; numbers that are not finite, which JSON does not have, as null. `HfgenError` as `whole`."""
    write_text(path, json.dumps(without_nonfinite(value), indent=1, allow_nan=False) + "\n")


def without_nonfinite(value: Any) -> Any:
    """JSON values with None for each nan and infinity."""
    if isinstance(value, dict):
        return {key: without_nonfinite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nonfinite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> Any:
    """The JSON value of a file; `HfgenError` for a file that cannot be read or is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise HfgenError(f"{path} cannot be read ({one_line(error, 200)}): make it anew or remove it") from error


def check_writable(flag: str, path: Path) -> None:
    """Make the folder of `path` and raise `HfgenError` now for a file that could not be written after the work is done."""
    if path.is_dir():
        raise HfgenError(f"{flag} {path} is a folder: name a file")
    make_folder(flag, path, path.parent)


def make_folder(flag: str, path: Path, folder: Path) -> None:
    """Make `folder`, which `path`, the value of `flag`, needs; `HfgenError` when there can be none or nothing written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HfgenError(f"{flag} {path}: {folder} is no folder ({error.strerror}): name another") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise HfgenError(f"{flag} {path}: no permission to write to {folder}: name another")
