"""What a training tells while it runs: progress bar, trackers, and a history on disk."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from tqdm.auto import tqdm

from hfgen.core.errors import HfgenError, way_out
from hfgen.core.history import HISTORY_FILE, history_line, read_history, write_history


class Progress:
    """Readings go to the bar, to the trackers and, a JSON object a line, to history.jsonl; main process only."""

    def __init__(self, accelerator: Accelerator, output_dir: Path, step: int, max_steps: int, batch_size: int):
        self.accelerator, self.batch_size, self.clocked = accelerator, batch_size, step
        self.history = output_dir / HISTORY_FILE
        self.bar = tqdm(total=max_steps, initial=step, disable=not accelerator.is_main_process, desc="steps")
        self.shown: dict[str, str] = {}
        self.resumed_at = step

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

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time inside the block does not count for images/s."""
        start = time.perf_counter()
        yield
        self.clock += time.perf_counter() - start

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


def _prefixed(prefix: str, terms: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}_{name}": value for name, value in terms.items()}
