"""Matplotlib figures without a display, written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> Figure:
    """A figure of width x height inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path):
    """Write a PNG, in one step."""
    beside = path.with_name(f".{path.name}")
    figure.savefig(beside, dpi=120, format="png", pil_kwargs={"optimize": True})
    os.replace(beside, path)
