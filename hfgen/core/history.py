"""The readings of a training on disk, a JSON object a line, and curves of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hfgen.core.files import write_text
from hfgen.core.plotting import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HISTORY_FILE = "history.jsonl"


def plot_history(history: list[dict], path: Path, ylabel: str, terms: tuple[str, ...] = ("loss",)):
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


def bound_label(likelihood) -> str:
    """A label for a VAE's negative bound that does not pass a pseudo-likelihood or a density off as a likelihood."""
    kind = "" if likelihood.discrete else f" ({likelihood.quantity.split(' of ')[0]})"
    return f"negative bound{kind}, nats per image"


def _plot_term(axes, history: list[dict], term: str):
    shown = []
    for prefix, label, style in (
        ("train", "training", {"alpha": 0.6}),
        ("validation", "held out", {"marker": "o", "ms": 3}),
    ):
        rows = [row for row in history if f"{prefix}_{term}" in row]
        values = [row[f"{prefix}_{term}"] for row in rows]
        shown += values
        axes.plot([row["step"] for row in rows], values, label=label, **style)
    axes.set(xlabel="optimizer step", xscale="log")
    if shown:
        low, high = np.quantile(shown, [0, 0.99])
        axes.set_yscale("log" if 0 < 5 * low < high else "linear")
        axes.set_ylim(low - 0.05 * (high - low) if axes.get_yscale() == "linear" else low / 1.1, high * 1.05)
    axes.grid(alpha=0.3, which="both")
    axes.legend()


def read_history(path: Path) -> list[dict]:
    """The readings so far; a last line that a kill cut short is left out."""
    if not path.is_file():
        return []
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def write_history(path: Path, rows: list[dict]):
    """Write the readings, in one step."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
