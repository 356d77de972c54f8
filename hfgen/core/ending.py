"""How a command ends: with its exit status, and with one line on stderr when it fails."""

from __future__ import annotations

import os
import select
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import TextIO

from hfgen.core.errors import explain

DEBUG = "print the whole traceback of an error"
INTERRUPTED = 130
# what a shell tells of a tool that SIGPIPE has ended, as `head` does to what writes to it
BROKEN_PIPE = 141


class Interrupted(KeyboardInterrupt):
    """A signal has ended the work in good order; the text says how to go on.

    Attributes:
        status: the exit status, 128 and the signal's number.
    """

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


def debug_asked(words: Sequence[str]) -> bool:
    """Whether --debug is among the words of a command line."""
    return "--debug" in words


def exit_status(action: Callable[[], object], *, program: str, debug: bool, interrupted: str = "interrupted") -> int:
    """Call `action` and tell how it went: 0 when it is done, 1 after an error, 130 when interrupted, an `Interrupted`'s own status,
    141 when nobody reads stdout any more.

    Every error becomes one line on stderr, of one process where several work together.

    Args:
        program: what the line begins with.
        debug: whether the traceback comes before the line.
        interrupted: what is told after Ctrl-C.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be in no encoding at all
    try:
        action()
        sys.stdout.flush()
    except Interrupted as error:
        _tell(f"{program}: {error}")
        return error.status
    except KeyboardInterrupt:
        _tell(f"{program}: {interrupted}")
        return INTERRUPTED
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _lost(sys.stdout):
            _write_nowhere()
            return BROKEN_PIPE
        _tell(f"{program}: error: {explain(error)}", traceback.format_exc() if debug else "")
        return 1
    return 0


def _tell(line: str, before: str = "") -> None:
    if is_first_to_fail():
        with suppress(OSError):  # stderr may be a broken pipe too
            print(f"{before}{line}", file=sys.stderr, flush=True)


def is_first_to_fail() -> bool:
    """Whether no other process of the same launch has told an error yet: those of the others follow from the first.

    torchrun and `accelerate launch` give each process a file for its error, in a folder that all of a machine share.
    """
    own = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not own:
        return os.environ.get("RANK", "0") == "0"
    try:
        (Path(own).parents[1] / "told").touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError:
        return os.environ.get("RANK", "0") == "0"
    return True


def _lost(stream: TextIO) -> bool:
    """Whether a stream is a pipe that nobody reads."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):
        return False


def _write_nowhere() -> None:
    """Let the interpreter's last flush of stdout find no broken pipe."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
