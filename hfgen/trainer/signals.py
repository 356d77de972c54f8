"""Signals to a training: it ends after a step, with a checkpoint, on all processes at the same step."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator

from hfgen.core.device import LAUNCHED
from hfgen.core.ending import Interrupted
from hfgen.core.processes import LONGEST_WAIT

# a launcher and the terminal may both pass on one Ctrl-C
TWICE_SECONDS = 1.0
# a GPU's host runs ahead of it: to wait for what the others said some steps ago holds nothing up
GPU_LAG = 8
HOW_TO_GO_ON = "start again with --resume_from_checkpoint latest"


class Request(IntEnum):
    """What is asked of a training; where several processes are asked for different things the largest counts."""

    NOTHING = 0
    CHECKPOINT = 1
    INTERRUPT = 2
    TERMINATE = 3
    ORPHANED = 4

    @property
    def stops(self) -> bool:
        """Whether the training is to end."""
        return self > Request.CHECKPOINT


STATUS = {
    Request.INTERRUPT: 128 + signal.SIGINT,
    Request.TERMINATE: 128 + signal.SIGTERM,
    Request.ORPHANED: 128 + signal.SIGTERM,
}
TOLD = {
    Request.INTERRUPT: "interrupted{after}",
    Request.TERMINATE: "stopped by SIGTERM{after}",
    Request.ORPHANED: "stopped{after}, as the launcher has died",
}
REQUESTS = {
    number: request
    for name, request in (
        ("SIGUSR1", Request.CHECKPOINT),
        ("SIGINT", Request.INTERRUPT),
        ("SIGTERM", Request.TERMINATE),
    )
    if (number := getattr(signal, name, None)) is not None
}


class Signals:
    """What signals have asked for: in its `with` block SIGTERM and SIGINT end the training, and SIGUSR1 asks for a checkpoint.

    Inside `deferred` they are answered by `poll`, elsewhere at once by `Interrupted`. A second SIGINT always ends at once. A training
    that a launcher has started is also to end when the launcher has died. Nothing is caught outside of the main thread.
    """

    def __init__(self) -> None:
        self.stop = Request.NOTHING
        self.asked = self.answered = 0
        self.at = -TWICE_SECONDS
        self.agreement: Agreement | None = None
        self.before: dict[int, Any] = {}
        self.parent: int | None = None

    def __enter__(self) -> Signals:
        if any(name in os.environ for name in LAUNCHED):
            self.parent = os.getppid()
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._receive) for number in REQUESTS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    @contextmanager
    def deferred(self, accelerator: Accelerator) -> Iterator[None]:
        """Steps of a training, after each of which `poll` is called."""
        self.agreement = Agreement(accelerator)
        try:
            yield
            self.agreement.close()
        except Interrupted:
            self.agreement.close()
            raise
        finally:
            self.agreement = None

    def poll(self) -> Request:
        """What is asked for, the same on all processes; call it on each after every step."""
        assert self.agreement is not None
        if self.parent is not None and os.getppid() != self.parent:
            self.stop = Request.ORPHANED
        own, asked = self.stop, self.asked
        if own is Request.NOTHING and asked != self.answered:
            own, self.answered = Request.CHECKPOINT, asked
        return Request(self.agreement(own))

    def _receive(self, number: int, frame: FrameType | None) -> None:
        request = REQUESTS[number]
        if request is Request.CHECKPOINT:
            self.asked += 1
            return
        now, again = time.monotonic(), request is self.stop is Request.INTERRUPT
        if again and now - self.at >= TWICE_SECONDS:
            raise KeyboardInterrupt
        if self.agreement is None:
            raise interruption(request)
        self.stop, self.at = max(self.stop, request), self.at if again else now


def interruption(request: Request, after: str = "") -> Interrupted:
    """The end that a request asks for."""
    return Interrupted(f"{TOLD[request].format(after=after)}: {HOW_TO_GO_ON}", STATUS[request])


class Agreement:
    """The largest of the numbers that all processes pass, some calls later: no process ever waits for one that is behind.

    Each process's gradients of a step wait for those of the others, so that what was passed before a step has arrived after it.
    """

    def __init__(self, accelerator: Accelerator):
        self.group, self.lag = None, 1 if accelerator.device.type == "cpu" else GPU_LAG
        self.under_way: deque[tuple[Any, torch.Tensor]] = deque()
        if accelerator.num_processes > 1 and torch.distributed.is_initialized():
            self.group = torch.distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)

    def __call__(self, value: int) -> int:
        """Call it equally often on all processes."""
        if self.group is None:
            return value
        number = torch.tensor([int(value)])
        maximum = torch.distributed.ReduceOp.MAX
        work = torch.distributed.all_reduce(number, maximum, group=self.group, async_op=True)
        self.under_way.append((work, number))
        if len(self.under_way) <= self.lag:
            return 0
        work, number = self.under_way.popleft()
        work.wait()
        return int(number)

    def close(self) -> None:
        """Let the last numbers arrive; all processes must have called it equally often."""
        for work, _ in self.under_way:
            work.wait()
        if self.group is not None:
            torch.distributed.destroy_process_group(self.group)
