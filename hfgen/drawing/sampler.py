"""What draws images: every family brings one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch

from hfgen.core.errors import HfgenError

OnStep = Callable[[int, torch.Tensor | Callable[[], torch.Tensor]], None]


@contextmanager
def fitting(count: int, device: torch.device, what: str = "images") -> Iterator[None]:
    """Raise `HfgenError` where so many at once take more memory than the device has."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise HfgenError(f"{count} {what} at once do not fit on {device}: lower batch_size") from error


class Sampler(Protocol):
    """Draws images from a pipeline, as its options say.

    Attributes:
        how: in words, for tables.
        calls: steps of a batch, for the progress bar.
        fixed_batch: whether only full batches may be drawn, as a compiled network wants it.
        class_names: of a class-conditional model, else None.
    """

    how: str
    calls: int
    fixed_batch: bool
    class_names: list[str] | None

    def draw(self, generators: list[torch.Generator], first: int, on_step: OnStep | None = None) -> torch.Tensor:
        """Images `first`, `first` + 1, ... , one for each generator, (B, C, H, W) in [0, 1]; image i is a function of its own
        generator and of i alone. `on_step(step, x)` is told what the images are after each step, or what makes them if they
        are asked for."""

    def warm_up(self, generators: list[torch.Generator], first: int) -> None:
        """Make a first draw that does not count, where it would take longer than the others."""

    def labels(self, count: int) -> torch.Tensor | None:
        """The class that each of the first images is asked for, int64 (count,); None where there are no classes."""
