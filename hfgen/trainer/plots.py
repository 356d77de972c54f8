"""Curves of a training, from its history."""

from __future__ import annotations

import os
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def plot_losses(history: list[dict], path: Path, ylabel: str):
    """Training and held-out loss over the optimizer steps, both axes logarithmic, as PNG."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for key, label, style in (
        ("train_loss", "training", {"alpha": 0.6}),
        ("validation_loss", "held out", {"marker": "o", "ms": 3}),
    ):
        rows = [row for row in history if key in row]
        axes.plot([row["step"] for row in rows], [row[key] for row in rows], label=label, **style)
    axes.set(xlabel="optimizer step", ylabel=ylabel, xscale="log", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    beside = path.with_name(f".{path.name}")
    figure.savefig(beside, dpi=120, format="png")
    os.replace(beside, path)
