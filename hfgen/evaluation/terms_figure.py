"""The terms of a diffusion model's bound over t."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hfgen.core.errors import HfgenError
from hfgen.core.plotting import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hfgen.results import EvaluationResult


def terms_figure(result: EvaluationResult, path: Path | None = None) -> Figure:
    """L_{t-1} over t with twice its standard error, and what the steps up to t add up to, in bits/dim; as PNG to `path`.

    Raises `HfgenError` for results without terms over t.
    """
    terms = None if result.likelihood is None else result.likelihood.terms
    if terms is None:
        raise HfgenError(
            f"these results of a {result.kind} have no terms over t: evaluate the bound of a diffusion model"
        )
    mean, error = np.array(terms.mean, dtype=float), np.array(terms.standard_error, dtype=float)
    t = np.arange(1, len(mean) + 1)
    seen = np.isfinite(mean)
    figure = new_figure(10, 4.2)
    left, right = figure.subplots(1, 2)
    left.loglog(t[seen], mean[seen], ".-", ms=3, lw=0.8)
    band = seen & np.isfinite(error)
    left.fill_between(
        t[band], np.maximum((mean - 2 * error)[band], mean[seen].min() / 10), (mean + 2 * error)[band], alpha=0.3
    )
    left.set(xlabel="t", ylabel=terms.unit, title="L_0 at t = 1, L_{t-1} from t = 2")
    # where nothing was drawn the term lies between its neighbours
    right.plot(t, np.cumsum(np.interp(t, t[seen], mean[seen])))
    total = result.headline("bound", terms.unit)
    if total is not None:
        spread = total.standard_error
        label = f"bound: {total.mean:.3f}" + ("" if spread is None or math.isnan(spread) else f" ± {spread:.3f}")
        right.axhline(total.mean, ls="--", lw=0.8, color="C1", label=label)
        right.legend()
    right.set(xlabel="t", ylabel=terms.unit, xscale="log", title="terms up to t", ylim=(0, None))
    for axes in (left, right):
        axes.grid(alpha=0.3, which="both")
    if path is not None:
        save_figure(figure, path)
    return figure
