"""From a VAE to a diffusion model: the number of layers of latents against bits/dim, of models that were measured.

`python benchmarks/ladder.py model_cards/*/results.json --out model_cards/ladder.png`

Of each file whose quantity is the log-likelihood of 8-bit pixels the bound is drawn, with the importance-weighted one where there
is one, over the number of its layers: 1 of a VAE, those of a hierarchical VAE, the T steps of a diffusion model, and without end of
one in continuous time. Flows, and files of other quantities, datasets and splits, are left out, with a line that says so.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path

from measured import QUANTITY, is_of, parse_args

from hfgen.core.plotting import new_figure, save_figure
from hfgen.results import EvaluationResult


@dataclass(frozen=True)
class Rung:
    """A model on the ladder: bits/dim of its bound, and of the importance-weighted one or None."""

    name: str
    layers: float
    bound: float
    importance_weighted: float | None


def layers(result: EvaluationResult) -> float:
    """Layers of latents; infinite in continuous time."""
    facts = result.likelihood.facts
    if "latents" in facts:
        return len(facts["latents"])
    if "iw_samples" in facts:
        return 1
    return facts["T"] or math.inf


def rung(path: Path, dataset: str, split: str) -> Rung | None:
    """What a file says, if it belongs here."""
    result = EvaluationResult.load(path)
    bound = result.headline("bound", "bits/dim")
    measured = result.likelihood is not None and result.likelihood.quantity == QUANTITY and bound is not None
    measured = measured and result.family != "flow"  # its latents are a function of the image
    if not measured or not is_of(result, dataset, split):
        print(f"{path}: no {QUANTITY} of {dataset}/{split} by layers of latents, left out", file=sys.stderr)
        return None
    weighted = result.headline("importance-weighted bound", "bits/dim")
    return Rung(path.parent.name, layers(result), bound.mean, None if weighted is None else weighted.mean)


def draw(rungs: list[Rung], path: Path) -> None:
    """The picture, with a logarithmic axis at whose end stands what has no end."""
    end = 10 * max([100, *(r.layers for r in rungs if r.layers < math.inf)])
    figure = new_figure(8, 5)
    axes = figure.subplots()
    for i, r in enumerate(rungs):
        x = min(r.layers, end)
        axes.plot(x, r.bound, "o", color=f"C{i % 10}", label=f"{r.name}: {r.bound:.3f}")
        if r.importance_weighted is not None:
            axes.plot(x, r.importance_weighted, "_", color=f"C{i % 10}", ms=12, mew=2)
    axes.set(
        xscale="log",
        xlabel="layers of latents",
        ylabel="bits/dim, upper bounds",
        xlim=(0.7, 2 * end),
        ylim=(0, 1.08 * max(r.bound for r in rungs)),
    )
    ticks = [10**e for e in range(round(math.log10(end)))]
    axes.set_xticks([*ticks, end], [*map(str, ticks), "continuous\ntime"])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(title="model: its bound (bar: importance-weighted)", loc="center left", bbox_to_anchor=(1, 0.5))
    save_figure(figure, path)


def main(argv=None) -> int:
    """Exit status 1 when there is nothing to draw."""
    args = parse_args(__doc__, argv)
    found = [rung(path, args.dataset, args.split) for path in args.results]
    rungs = sorted((r for r in found if r is not None), key=lambda r: (r.layers, r.name))
    for r in rungs:
        weighted = "" if r.importance_weighted is None else f", importance-weighted {r.importance_weighted:.3f}"
        print(f"{r.layers:>6g} layers  {r.bound:.3f} bits/dim{weighted}  {r.name}")
    if not rungs:
        return 1
    draw(rungs, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
