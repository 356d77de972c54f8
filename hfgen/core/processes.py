"""The processes of a launch, of torchrun or `accelerate launch`, where they share a piece of work.

All run the same code. Inside `together` each does its part of what is `shared`, and all know the whole; the first alone does what is
`on_first`, such as writing. What they tell each other lies in the machine's memory, so that gloo will do on a GPU too.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from types import FrameType
from typing import Any, NoReturn, TypeVar, cast

from hfgen.core.ending import Interrupted
from hfgen.core.errors import HfgenError, explain

NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# for what the first does alone; a process that has died is noticed at once, as its connections close
LONGEST_WAIT = timedelta(hours=2)
SECONDS_TO_LET_GO = 1.0
SHORTEST_PAUSE, LONGEST_PAUSE = 0.0005, 0.05
STOPPED = "stopped by SIGTERM, as a launcher does when another of its processes has ended: run the same command again to go on"

Unit = TypeVar("Unit")
Result = TypeVar("Result")
# whether a block of `together` has begun, and whether this process is not alone with a part of its work
_together: ContextVar[bool] = ContextVar("_together", default=False)
_sharing: ContextVar[bool] = ContextVar("_sharing", default=False)


def launched() -> int:
    """How many processes a launcher has started for this work; 1 without one."""
    return int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in NEEDED) else 1


def is_first_of_launch() -> bool:
    """Whether this process is the one that does what cannot be shared."""
    return launched() == 1 or os.environ["RANK"] == "0"


def is_first() -> bool:
    """Whether this process is the one that reads, writes and tells: that works by itself, or is the first of those together."""
    return not _together.get() or is_first_of_launch()


def tell(line: str) -> None:
    """A line on stderr, of one process, above whatever bar there is."""
    if is_first():
        from tqdm.auto import tqdm

        tqdm.write(f"hfgen: {line}", file=sys.stderr)


@contextmanager
def together() -> Iterator[None]:
    """Let the processes of a launch share the work of the block, each on a GPU of its own where there are some; one alone does all.

    Raises `HfgenError` when they do not find each other.
    """
    if launched() == 1:
        yield
        return
    _meet()
    _on_sigterm(_stop)
    tokens = _together.set(True), _sharing.set(True)
    try:
        yield
        _exchange(None, None)  # nobody leaves while another still listens
    except BaseException:
        _on_sigterm(signal.SIG_IGN)  # the launcher's: what has failed is still to be told
        raise
    finally:
        _together.reset(tokens[0])
        _sharing.reset(tokens[1])
        # gloo's thread lets go of the last message a moment after it has come, and needs the GIL for it
        time.sleep(SECONDS_TO_LET_GO)
    import torch.distributed

    torch.distributed.destroy_process_group()
    _on_sigterm(signal.SIG_DFL)


def shared(units: Sequence[Unit], work: Callable[[Sequence[Unit]], Iterator[Result]]) -> Iterator[tuple[Unit, Result]]:
    """Each unit with its result, in order, on all processes.

    `work` is a generator: it takes the units of this process and yields the result of each. Inside of it this process is alone. What
    one raises all raise, as `HfgenError`.
    """
    if not _sharing.get():
        yield from zip(units, work(units), strict=True)
        return
    rank, count = int(os.environ["RANK"]), launched()
    results = work(units[rank::count])
    try:
        for first in range(0, len(units), count):
            part = units[first : first + count]
            found = _exchange(*_attempt(lambda: next(results)) if rank < len(part) else (None, None))
            yield from zip(part, found, strict=False)
    finally:
        cast(Any, results).close()  # its bars and readers end now, before anything is told


def on_first(action: Callable[[], Result]) -> Result:
    """What an action returns on the first process, on all. What it raises all raise, as `HfgenError`."""
    if not _sharing.get():
        return action()
    import torch.distributed

    result, error = _attempt(action) if is_first() else (None, None)
    box = [(result, None if error is None else explain(error))]
    try:
        _arrive()
        torch.distributed.broadcast_object_list(box, src=0)
    except RuntimeError as lost:
        raise HfgenError(explain(lost)) from lost
    result, failure = box[0]
    if failure is not None:
        raise HfgenError(failure) from error
    return cast(Result, result)


def _meet() -> None:
    if not is_first_of_launch():
        os.environ.setdefault(
            "HF_HUB_DISABLE_PROGRESS_BARS", "1"
        )  # those of transformers too, before either is imported
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    try:
        torch.distributed.init_process_group("gloo", timeout=LONGEST_WAIT)
    except (RuntimeError, ValueError) as error:
        raise HfgenError(
            f"the {launched()} processes of this work do not find each other ({explain(error)[:120]}): start them by torchrun or "
            "accelerate launch"
        ) from error


def _on_sigterm(handler: Any) -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise Interrupted(STOPPED, 128 + number)


def _alone(action: Callable[[], Result]) -> Result:
    token = _sharing.set(False)
    try:
        return action()
    finally:
        _sharing.reset(token)


def _attempt(action: Callable[[], Result]) -> tuple[Result | None, Exception | None]:
    """The result, or what went wrong."""
    try:
        return _alone(action), None
    except Exception as error:
        return None, error


def _arrive() -> None:
    """Wait until all are here, in pauses, between which Python answers signals: while torch waits it does not."""
    import torch

    arrived, pause = torch.distributed.all_reduce(torch.zeros(1), async_op=True), SHORTEST_PAUSE
    while not arrived.is_completed():
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
    arrived.wait()


def _exchange(result: Result | None, error: Exception | None) -> list[Result]:
    """The results of all processes by rank; `HfgenError` for what went wrong on any."""
    import torch.distributed

    found: list = [None] * launched()
    try:
        _arrive()
        torch.distributed.all_gather_object(found, (result, None if error is None else explain(error)))
    except RuntimeError as lost:
        raise HfgenError(explain(lost)) from lost
    for _, failure in found:
        if failure is not None:
            raise HfgenError(failure) from error
    return [value for value, _ in found]
