"""One training an output folder: a lock that the operating system takes back when its holder dies."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hfgen.core.errors import HfgenError
from hfgen.trainer.manifest import HIDDEN

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = "lock"
_held: set[int] = set()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of an output folder, whose file says who holds it: process, host and time.

    Where the file system has no locks a line says so, and the work goes on without.

    Raises `HfgenError` that says who holds it, when another training does.
    """
    path = folder / HIDDEN / LOCK_FILE
    descriptor = _open(path)
    while not _lock(descriptor, path):
        _held.discard(descriptor)
        os.close(descriptor)
        descriptor = _open(path)
    try:
        _write(descriptor, f"{json.dumps(_holder())}\n")
        yield
    finally:
        _held.discard(descriptor)
        _write(descriptor, "")
        os.close(descriptor)


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    try:
        return os.open(path, flags, 0o666)
    except OSError as error:
        raise HfgenError(f"{path} cannot be opened ({error.strerror}): name a folder that you may write to") from error


def _lock(descriptor: int, path: Path) -> bool:
    """Take the lock; False when the file is not there any more, removed by one who gave up before it had begun."""
    folder = path.parents[1]
    try:
        if fcntl is None:
            raise OSError("this system has no such locks")
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        who = _who(descriptor)
        os.close(descriptor)
        raise HfgenError(
            f"output_dir={str(folder)!r} belongs to a training that is running ({who}): wait for it, stop it, or name "
            "another folder"
        ) from None
    except OSError as error:
        reason = error.strerror or error
        print(f"{folder} cannot be locked ({reason}): see to it that no other training writes there", file=sys.stderr)
    _held.add(descriptor)
    return path.exists() and os.path.samestat(os.fstat(descriptor), path.stat())


def _holder() -> dict[str, str | int]:
    since = time.strftime("%Y-%m-%d %H:%M:%S %z")
    return {"process": os.getpid(), "host": socket.gethostname(), "since": since}


def _who(descriptor: int) -> str:
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        holder = json.loads(os.read(descriptor, 4096))
        return f"process {holder['process']} on {holder['host']}, since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "it has not said yet which"


def _write(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, text.encode())


def _let_go() -> None:
    """In a forked process, such as one that decodes images: it must not keep the lock when the training has died."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
