"""What a training tells while it runs: progress bar, trackers, and a history on disk."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from hfgen.core.errors import HfgenError, way_out
from hfgen.core.history import HISTORY_FILE, history_line, read_history, write_history

TIMED_STEPS = 10
TIMED_SECONDS = 60.0


class Progress:
    """Readings go to the bar, to the trackers and, a JSON object a line, to history.jsonl; main process only."""

    def __init__(self, accelerator: Accelerator, output_dir: Path, step: int, max_steps: int, batch_size: int):
        self.accelerator, self.batch_size, self.clocked = accelerator, batch_size, step
        self.history = output_dir / HISTORY_FILE
        self.bar = tqdm(total=max_steps, initial=step, disable=not accelerator.is_main_process, desc="steps")
        self.shown: dict[str, str] = {}
        self.resumed_at, self.step, self.max_steps = step, step, max_steps
        self.timed_from: tuple[int, float] | None = None
        self.timed, self.seconds_paused = False, 0.0

    def __enter__(self) -> Progress:
        if self.accelerator.is_main_process:
            write_history(self.history, [row for row in read_history(self.history) if row["step"] <= self.resumed_at])
        self.clock = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def tick(self) -> None:
        """A step is done."""
        self.bar.update()
        self.step += 1
        if not self.timed:
            self._time()

    def _time(self) -> None:
        """Tell the duration of a step once some have been taken; the first one, which warms up, is left out."""
        wait_for_device(self.accelerator.device)
        now = time.perf_counter() - self.seconds_paused
        if self.timed_from is None:
            self.timed_from = self.step, now
            return
        steps, seconds = self.step - self.timed_from[0], now - self.timed_from[1]
        self.timed = steps >= TIMED_STEPS or seconds > TIMED_SECONDS or self.step == self.max_steps
        if self.timed and self.step < self.max_steps and self.accelerator.is_main_process:
            each, left = seconds / steps, self.max_steps - self.step
            self.bar.write(
                f"{_seconds(each)} a step: about {words_of(each * left)} for the {left:,} to come, beside held-out losses and samples"
            )

    def reading(self, step: int, terms: dict[str, float], learning_rate: float) -> None:
        """Means of the loss and its terms since the last reading, learning rate, and images/s over all processes."""
        now = time.perf_counter()
        rate = (step - self.clocked) * self.batch_size / (now - self.clock)
        self.clock, self.clocked = now, step
        self._show(loss=f"{terms['loss']:.4f}", lr=f"{learning_rate:.1e}", **{"images/s": f"{rate:.0f}"})
        readings = {"learning_rate": learning_rate, "images_per_second": rate}
        self._log(step, _prefixed("train", terms) | readings)

    def validation(self, step: int, epoch: int, terms: dict[str, float]) -> None:
        """Held-out loss and its terms after an epoch."""
        self._show(val=f"{terms['loss']:.4f}")
        self._log(step, _prefixed("validation", terms) | {"epoch": epoch})

    def quality(self, step: int, values: Mapping[str, float]) -> None:
        """Distances of samples to held-out images after an epoch."""
        self._show(**{name: f"{value:.3f}" for name, value in values.items()})
        self._log(step, _prefixed("samples", values))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time inside the block does not count for images/s."""
        start = time.perf_counter()
        yield
        paused = time.perf_counter() - start
        self.clock += paused
        self.seconds_paused += paused

    def _show(self, **values: str) -> None:
        self.shown |= values
        self.bar.set_postfix(self.shown)

    def _log(self, step: int, values: dict[str, Any]) -> None:
        self.accelerator.log(values, step=step)
        if self.accelerator.is_main_process:
            try:
                with self.history.open("a", encoding="utf-8") as file:
                    file.write(history_line({"step": step, **values}))
            except OSError as error:
                raise HfgenError(
                    f"{self.history} cannot be written ({error.strerror}): {way_out(error)}, then resume"
                ) from error


def wait_for_device(device: torch.device) -> None:
    """Until what an accelerator was given to do is done."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _seconds(value: float) -> str:
    return f"{value:.2g} s" if value < 10 else f"{value:.0f} s"


def words_of(seconds: float) -> str:
    """A duration in the largest unit of which there are two or more, such as 3 h."""
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _prefixed(prefix: str, terms: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}_{name}": value for name, value in terms.items()}
