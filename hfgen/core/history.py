"""The readings of a training on disk, a JSON object a line, and curves of them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from hfgen.core.errors import HfgenError, one_line
from hfgen.core.files import without_nonfinite, write_text
from hfgen.core.plotting import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HISTORY_FILE = "history.jsonl"
DISTANCES = {
    "samples_frechet": "Frechet distance of 500 samples (not FID)",
    "samples_kid": "kernel distance of 500 samples",
}
TRAINING = {"label": "training", "alpha": 0.6}
HELD_OUT = {"label": "held out", "marker": "o", "ms": 3}
SAMPLES = {"label": "to held-out images", "marker": "o", "ms": 3, "color": "C2"}
WIDE = 10  # a factor from which on an axis is logarithmic
WITHOUT = "mend this line or remove the file"


class PixelLikelihood(Protocol):
    """What a bound is of: `quantity` in words, and whether it is of the data's own probability."""

    quantity: str
    discrete: bool


def plot_history(history: list[dict], path: Path, ylabel: str, terms: tuple[str, ...] = ("loss",)) -> None:
    """`history_figure`, as PNG."""
    save_figure(history_figure(history, ylabel, terms), path)


def history_figure(history: list[dict], ylabel: str, terms: tuple[str, ...] = ("loss",)) -> Figure:
    """A panel for each term with its training and held-out values over the optimizer steps, and one for each distance of samples.

    The vertical axis leaves out the highest hundredth of the values, such as spikes, but never where a curve begins, and is
    logarithmic where the others span a factor of 5 or more.
    """
    distances = {key: label for key, label in DISTANCES.items() if any(is_finite(row.get(key)) for row in history)}
    panels = len(terms) + len(distances)
    figure = new_figure(7 if panels == 1 else 4.6 * panels, 4.5)
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    for place, term in zip(axes, terms, strict=False):
        label = ylabel if term == "loss" else f"{term}, {ylabel.partition(', ')[2] or ylabel}"
        _plot_curves(place, history, {f"train_{term}": TRAINING, f"validation_{term}": HELD_OUT}, label)
    for place, (key, label) in zip(axes[len(terms) :], distances.items(), strict=True):
        _plot_curves(place, history, {key: SAMPLES}, label)
    return figure


def terms_of(history: list[dict]) -> tuple[str, ...]:
    """The names of the loss and its terms in a history, in their order."""
    return tuple({key.removeprefix("train_"): None for row in history for key in row if key.startswith("train_")})


def bound_label(likelihood: PixelLikelihood) -> str:
    """A label for a VAE's negative bound that does not pass a pseudo-likelihood or a density off as a likelihood."""
    kind = "" if likelihood.discrete else f" ({likelihood.quantity.split(' of ')[0]})"
    return f"negative bound{kind}, nats per image"


def _plot_curves(axes: Axes, history: list[dict], curves: Mapping[str, Mapping[str, Any]], ylabel: str) -> None:
    """Readings by their keys, each in its style."""
    readings = {key: [(row["step"], row[key]) for row in history if is_finite(row.get(key))] for key in curves}
    for key, style in curves.items():
        axes.plot([step for step, _ in readings[key]], [value for _, value in readings[key]], **style)
    axes.set(xlabel="optimizer step", ylabel=ylabel)
    parts = [values for values in readings.values() if values]
    if parts:
        steps = [step for values in parts for step, _ in values if step > 0]
        if steps and max(steps) >= WIDE * min(steps):
            axes.set_xscale("log")
            _mark_powers(axes.xaxis, max(steps) / min(steps))
        low, high = _limits([[value for _, value in values] for values in parts])
        if 0 < 5 * low < high:
            axes.set_yscale("log")
            axes.set_ylim(low / 1.1, high * 1.1)
            _mark_powers(axes.yaxis, high / low)
        else:
            margin = 0.05 * (high - low) or 0.05 * abs(high) or 1
            axes.set_ylim(low - margin, high + margin)
    axes.grid(alpha=0.3)
    axes.legend()


def _limits(curves: list[list[float]]) -> tuple[float, float]:
    """The least value, and the greatest that is shown: spikes are not, the beginning of each curve is."""
    shown = np.concatenate(curves)
    return float(shown.min()), float(max(np.quantile(shown, 0.99), *(values[0] for values in curves)))


def _mark_powers(axis: Any, factor: float) -> None:
    """Few ticks, as plain numbers: matplotlib labels all tenths of a short logarithmic axis, on top of each other."""
    axis.set_major_locator(LogLocator(subs=(1,) if factor >= WIDE**2 else (1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= WIDE else f"{value:g}"))


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
