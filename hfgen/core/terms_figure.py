"""The terms of a bound over t."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hfgen.core.plotting import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Values = Sequence[float | None]


def terms_figure(mean: Values, error: Values, *, unit: str, bound: tuple[float, float | None] | None) -> Figure:
    """L_{t-1} over t with twice its standard error, and what the steps up to t add up to.

    Args:
        mean, error: of L_0, L_1, ..., None where nothing was drawn.
        bound: the whole with its standard error, as a line; None: none is drawn.
    """
    means, errors = np.array(mean, dtype=float), np.array(error, dtype=float)
    t = np.arange(1, len(means) + 1)
    seen = np.isfinite(means)
    figure = new_figure(10, 4.2)
    left, right = figure.subplots(1, 2)
    left.loglog(t[seen], means[seen], ".-", ms=3, lw=0.8)
    band = seen & np.isfinite(errors)
    left.fill_between(
        t[band], np.maximum((means - 2 * errors)[band], means[seen].min() / 10), (means + 2 * errors)[band], alpha=0.3
    )
    left.set(xlabel="t", ylabel=unit, title="L_0 at t = 1, L_{t-1} from t = 2")
    # where nothing was drawn the term lies between its neighbours
    right.plot(t, np.cumsum(np.interp(t, t[seen], means[seen])))
    if bound is not None:
        total, spread = bound
        label = f"bound: {total:.3f}" + ("" if spread is None or math.isnan(spread) else f" ± {spread:.3f}")
        right.axhline(total, ls="--", lw=0.8, color="C1", label=label)
        right.legend()
    right.set(xlabel="t", ylabel=unit, xscale="log", title="terms up to t", ylim=(0, None))
    for axes in (left, right):
        axes.grid(alpha=0.3, which="both")
    return figure
