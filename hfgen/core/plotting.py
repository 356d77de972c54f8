"""Matplotlib figures without a display, written whole or not at all."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hfgen.core.files import whole


def new_figure(width: float, height: float) -> Figure:
    """A figure of width x height inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG, in one step."""
    with whole(path) as beside:
        figure.savefig(beside, dpi=120, format="png", pil_kwargs={"optimize": True})
