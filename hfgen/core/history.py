"""The readings of a training on disk, a JSON object a line, and curves of them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol

import numpy as np

from hfgen.core.errors import HfgenError, one_line
from hfgen.core.files import without_nonfinite, write_text
from hfgen.core.plotting import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HISTORY_FILE = "history.jsonl"
WITHOUT = "mend this line or remove the file"


class PixelLikelihood(Protocol):
    """What a bound is of: `quantity` in words, and whether it is of the data's own probability."""

    quantity: str
    discrete: bool


def plot_history(history: list[dict], path: Path, ylabel: str, terms: tuple[str, ...] = ("loss",)) -> None:
    """`history_figure`, as PNG."""
    save_figure(history_figure(history, ylabel, terms), path)


def history_figure(history: list[dict], ylabel: str, terms: tuple[str, ...] = ("loss",)) -> Figure:
    """A panel for each term with its training and held-out values over the optimizer steps.

    The vertical axis leaves out the highest hundredth of the values, such as spikes, and is logarithmic where the
    others span a factor of 5 or more.
    """
    figure = new_figure(7 if len(terms) == 1 else 4.6 * len(terms), 4.5)
    for axes, term in zip(figure.subplots(1, len(terms), squeeze=False)[0], terms, strict=True):
        _plot_term(axes, history, term)
        axes.set(ylabel=ylabel if term == "loss" else f"{term}, {ylabel.partition(', ')[2] or ylabel}")
    return figure


def terms_of(history: list[dict]) -> tuple[str, ...]:
    """The names of the loss and its terms in a history, in their order."""
    return tuple({key.removeprefix("train_"): None for row in history for key in row if key.startswith("train_")})


def bound_label(likelihood: PixelLikelihood) -> str:
    """A label for a VAE's negative bound that does not pass a pseudo-likelihood or a density off as a likelihood."""
    kind = "" if likelihood.discrete else f" ({likelihood.quantity.split(' of ')[0]})"
    return f"negative bound{kind}, nats per image"


def _plot_term(axes: Axes, history: list[dict], term: str) -> None:
    shown = []
    for prefix, label, style in (
        ("train", "training", {"alpha": 0.6}),
        ("validation", "held out", {"marker": "o", "ms": 3}),
    ):
        key = f"{prefix}_{term}"
        readings = [(row["step"], row[key]) for row in history if is_finite(row.get(key))]
        shown += [value for _, value in readings]
        axes.plot([step for step, _ in readings], [value for _, value in readings], label=label, **style)
    axes.set(xlabel="optimizer step", xscale="log")
    if shown:
        low, high = np.quantile(shown, [0, 0.99])
        axes.set_yscale("log" if 0 < 5 * low < high else "linear")
        axes.set_ylim(low - 0.05 * (high - low) if axes.get_yscale() == "linear" else low / 1.1, high * 1.05)
    axes.grid(alpha=0.3, which="both")
    axes.legend()


def read_history(path: Path) -> list[dict]:
    """The readings so far; a last line that a kill cut short is left out.

    Raises `HfgenError`, with the number of the line, for one that is no reading: an object of numbers, or null, with "step".
    """
    if not path.is_file():
        return []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise HfgenError(f"{path} cannot be read ({one_line(error, 200)}): {WITHOUT}") from error
    return [_reading(line, f"{path}, line {number}") for number, line in enumerate(lines[:-1], 1) if line]


def _reading(line: str, place: str) -> dict:
    try:
        row = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise HfgenError(f"{place} is no JSON ({one_line(error, 200)}): {WITHOUT}") from error
    if not isinstance(row, dict) or not _is_step(row.get("step")):
        raise HfgenError(f"{place} is {one_line(line, 60)!r}, no reading with its step: {WITHOUT}")
    for key, value in row.items():
        if value is not None and not is_finite(value):
            raise HfgenError(f"{place}: {key} is {one_line(repr(value), 60)}, no number: {WITHOUT}")
    return row


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def _is_step(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_finite(value: object) -> bool:
    """Whether a value is a number that can be drawn."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def write_history(path: Path, rows: list[dict]) -> None:
    """Write the readings, in one step; numbers that are not finite as null."""
    write_text(path, "".join(map(history_line, rows)))


def history_line(row: dict) -> str:
    """A reading as its line, as `read_history` takes it; numbers that are not finite as null."""
    return json.dumps(without_nonfinite(row), allow_nan=False) + "\n"
