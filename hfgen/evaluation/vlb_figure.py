"""The terms of a diffusion model's bound over t."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from hfgen.plotting import new_figure, save_figure


def plot_terms(results: dict, path: Path):
    """L_{t-1} over t with twice its standard error, and what the steps up to t add up to, in bits/dim, as PNG.

    `results` are those of `evaluate_diffusion`.
    """
    mean, error = (np.array(results["terms"][key], dtype=float) for key in ("mean", "standard_error"))
    t = np.arange(1, len(mean) + 1)
    seen = np.isfinite(mean)
    figure = new_figure(10, 4.2)
    left, right = figure.subplots(1, 2)
    left.loglog(t[seen], mean[seen], ".-", ms=3, lw=0.8)
    band = seen & np.isfinite(error)
    left.fill_between(
        t[band], np.maximum((mean - 2 * error)[band], mean[seen].min() / 10), (mean + 2 * error)[band], alpha=0.3
    )
    left.set(xlabel="t", ylabel="bits/dim", title="L_0 at t = 1, L_{t-1} from t = 2")
    # where nothing was drawn the term lies between its neighbours
    right.plot(t, np.cumsum(np.interp(t, t[seen], mean[seen])))
    total = results["metrics"]["vlb_total_bits_per_dim"]
    error = total["standard_error"]
    label = f"bound: {total['mean']:.3f}" + ("" if math.isnan(error) else f" ± {error:.3f}")
    right.axhline(total["mean"], ls="--", lw=0.8, color="C1", label=label)
    right.set(xlabel="t", ylabel="bits/dim", xscale="log", title="terms up to t", ylim=(0, None))
    right.legend()
    for axes in (left, right):
        axes.grid(alpha=0.3, which="both")
    save_figure(figure, path)
