"""Whole optimizer steps as one CUDA graph: what the processor told the GPU once, kernel by kernel, the GPU repeats by itself.

A graph works on the same memory each time, so batches are copied to where the first one lay, and whatever changes from step to step,
such as the learning rate and the decay of the moving average, lies on the device. What only the host knows would be the same for
ever: a task that asks for it cannot be captured.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NoReturn, Protocol

import torch

from hfgen.core.errors import one_line
from hfgen.data.batch import Batch
from hfgen.trainer.step import MakeBatches, Step

# libraries choose their algorithms and workspaces, and optimizers make their moments, before a capture
WARM_UP_STEPS = 3


class OnlyOnHost(Exception):
    """Of a value that a captured step would take for the same at every step."""


class Unread:
    """Stands for a value that only the host knows; any use of it raises `OnlyOnHost`."""

    def __init__(self, name: str):
        object.__setattr__(self, "_name", name)

    def _refuse(self, *_: object) -> NoReturn:
        raise OnlyOnHost(f"the loss depends on the {object.__getattribute__(self, '_name')}, which only the host knows")

    __getattr__ = __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _refuse
    __pow__ = __neg__ = __mod__ = __floordiv__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = (
        __int__
    ) = __float__ = __index__ = _refuse
    __len__ = __iter__ = __getitem__ = _refuse


class Recorder(Protocol):
    """What records kernels and repeats them."""

    def warm_up(self, step: Callable[[], None]) -> None:
        """Call it as it will be recorded."""

    def record(self, step: Callable[[], None]) -> Callable[[], object]:
        """What does the kernels of `step` again at each call; they are not done here."""


class CudaGraphs:
    """By torch.cuda.graph, after a warm-up on a stream that is not the main one, as a capture wants it."""

    def warm_up(self, step: Callable[[], None]) -> None:
        """Call it on a side stream, after what was asked before and before what will be asked."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*capturable")  # optimizers, of a step that is not captured
            step()
        torch.cuda.current_stream().wait_stream(stream)

    def record(self, step: Callable[[], None]) -> Callable[[], object]:
        """The graph's replay. What other threads ask of the GPU meanwhile, as a loader's, is no part of it."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            step()
        return graph.replay


def why_not(step: Step, micro_batches: int) -> str | None:
    """Why steps cannot be captured here, in a few words; None where they can."""
    accelerator = step.accelerator
    if accelerator.device.type != "cuda":
        return f"it needs a GPU of NVIDIA or AMD, this is {accelerator.device.type}"
    if accelerator.num_processes > 1:
        return "there are several processes"
    if micro_batches > 1:
        return "a step has several micro-batches"
    if len(step.turns) > 1:
        return "there are several optimizers"
    if accelerator.scaler is not None:
        return "fp16 gradients are scaled by what the host decides"
    return None


class CapturedStep:
    """A `Step` of one micro-batch and one optimizer that is recorded once it has been taken a few times.

    Where that turns out to be impossible, `tell` gets a line and steps are taken as before.
    """

    def __init__(self, step: Step, recorder: Recorder, tell: Callable[[str], object]):
        self.step, self.recorder, self.tell = step, recorder, tell
        self.warm_ups_left = WARM_UP_STEPS
        self.replay: Callable[[], object] | None = None
        self.batch: Batch  # from the first step on
        self.begun = self.given_up = False

    def __call__(self, batches: MakeBatches) -> None:
        """Take a step."""
        if self.given_up:
            self.step(batches)
            return
        (batch,) = batches()
        if not self.begun:
            self._begin(batch)
        copy_batch(batch, self.batch)
        try:
            self._take()
        except Exception as error:  # CUDA and torch have many for what a graph cannot hold
            if self.replay is not None or self.warm_ups_left not in (0, WARM_UP_STEPS):
                raise
            self._give_up(error)
            self.step(batches)  # a mistake of the step itself is raised here

    def _begin(self, batch: Batch) -> None:
        self.batch, self.begun = still(batch), True
        for turn in self.step.turns:
            for group in turn.optimizer.param_groups:
                group["lr"] = torch.tensor(float(group["lr"]), device=self.step.accelerator.device)
                group["capturable"] = True
        if self.step.ema is not None:
            self.step.ema.count_on(self.step.accelerator.device)

    def _take(self) -> None:
        if self.replay is not None:
            self.replay()
        elif self.warm_ups_left:
            self.recorder.warm_up(self._once)
            self.warm_ups_left -= 1
        else:
            replay = self.recorder.record(self._once)
            replay()
            self.replay = replay

    def _once(self) -> None:
        self.step(lambda: [self.batch])

    def _give_up(self, error: Exception) -> None:
        self.given_up = True
        for turn in self.step.turns:
            turn.optimizer.zero_grad()  # gradients of a capture that failed lie in memory that is gone
            for group in turn.optimizer.param_groups:
                group["lr"], group["capturable"] = float(group["lr"]), False
        if self.step.ema is not None:
            self.step.ema.count_on_host()
        self.tell(not_captured(one_line(error, 200)))


def captured(step: Step, micro_batches: int, tell: Callable[[str], object]) -> Step | CapturedStep:
    """The step as it is captured; as it is, and a line of why, where that cannot be."""
    reason = why_not(step, micro_batches)
    if reason is None:
        return CapturedStep(step, CudaGraphs(), tell)
    tell(not_captured(reason))
    return step


def not_captured(reason: str) -> str:
    """What is told of steps that are not captured."""
    return f"--capture: steps are not captured, as {reason}"


def still(batch: Batch) -> Batch:
    """A batch in memory of its own, of whose rows and step nothing is known."""
    unread: Any = Unread  # in the place of a tensor and a number
    return replace(
        batch,
        data=batch.data.clone(),
        cond=_clones(batch.cond),
        random=_clones(batch.random),
        rows=unread("rows' numbers"),
        step=unread("step's number"),
    )


def _clones(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in tensors.items()}


def copy_batch(batch: Batch, into: Batch) -> None:
    """Copy data, conditions and random numbers."""
    into.data.copy_(batch.data)
    for name, value in into.cond.items():
        value.copy_(batch.cond[name])
    for name, value in into.random.items():
        value.copy_(batch.random[name])
