"""Fidelity against diversity, and likelihood against the look of samples, of models that were measured.

`python benchmarks/fidelity_diversity.py model_cards/*/results.json model_cards/*/samples.json --out model_cards/fidelity_diversity.png`

Left, precision over recall of samples: fidelity and diversity. Right, the Frechet distance over bits/dim, of those whose bound is one of
8-bit pixels. Files of one folder are of one model; those without samples, or of another dataset or split, are left out, with a line
that says so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from measured import QUANTITY, is_of, parse_args

from hfgen.core.plotting import new_figure, save_figure
from hfgen.results import EvaluationResult

MARKERS = "osD^vP*Xhp<>"


@dataclass(frozen=True)
class Point:
    """A model: of samples precision, recall and Frechet distance, each also of real images in their place; bits/dim or None."""

    name: str
    kind: str
    precision: float
    recall: float
    frechet: float
    floor: tuple[float, float, float]
    bits_per_dim: float | None


def point(name: str, results: Sequence[EvaluationResult]) -> Point | None:
    """What the files of a model say together; None without samples that are the model's own choice, not made after pictures."""
    measured = (r.metrics for r in results if "precision" in r.metrics and "frechet" in r.metrics)
    metrics = next((m for m in measured if not any(key.startswith("control_") for key in m)), None)
    if metrics is None:
        return None
    of_pixels = [r for r in results if r.likelihood is not None and r.likelihood.quantity == QUANTITY]
    found = [r.headline(role, "bits/dim") for r in of_pixels for role in ("log-likelihood", "bound")]
    likelihood = next((metric.mean for metric in found if metric is not None), None)
    names = ("precision", "recall", "frechet")
    own, floor = (tuple(metrics[f"{key}{suffix}"].mean for key in names) for suffix in ("", "_floor"))
    return Point(name, results[0].kind, *own, floor=floor, bits_per_dim=likelihood)


def points(paths: Sequence[Path], dataset: str, split: str) -> list[Point]:
    """Of all folders that have what is drawn, in the order of their kinds and names."""
    of_model: dict[str, list[EvaluationResult]] = {}
    for path in paths:
        result = EvaluationResult.load(path)
        if is_of(result, dataset, split):
            of_model.setdefault(path.parent.name, []).append(result)
        else:
            print(f"{path}: not of {dataset}/{split}, left out", file=sys.stderr)
    made = {name: point(name, results) for name, results in of_model.items()}
    for name in (name for name, found in made.items() if found is None):
        print(f"{name}: no measured samples of its own choice, left out", file=sys.stderr)
    return sorted((p for p in made.values() if p is not None), key=lambda p: (p.kind, p.name))


def draw(found: Sequence[Point], path: Path) -> None:
    """Both pictures with one legend; a cross marks real training images in the place of samples."""
    figure = new_figure(12, 5.2)
    left, right = figure.subplots(1, 2)
    kinds = list(dict.fromkeys(p.kind for p in found))

    def scatter(axes, chosen: Sequence[Point], place: Callable[[Point], tuple[float, float]]) -> None:
        for p in chosen:
            i = found.index(p)
            marker = MARKERS[kinds.index(p.kind) % len(MARKERS)]
            axes.plot(*place(p), marker, color=f"C{i % 10}", ms=9, ls="none", label=f"{p.name} ({p.kind})")

    scatter(left, found, lambda p: (p.recall, p.precision))
    precision, recall, frechet = min((p.floor for p in found), key=lambda floor: floor[2])  # of the most images
    left.plot(recall, precision, "x", color="0.4", ms=9, mew=2, label="real training images")
    left.set(
        xlabel="recall: diversity", ylabel="precision: fidelity", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal"
    )
    scatter(right, [p for p in found if p.bits_per_dim is not None], lambda p: (p.bits_per_dim, p.frechet))
    right.axhline(frechet, color="0.4", ls=":", label="_")
    right.set(
        xlabel="bits/dim of held-out images, upper bounds: better to the left",
        ylabel="Frechet distance: better below (dotted: real images)",
        yscale="log",
    )
    for axes in (left, right):
        axes.grid(alpha=0.3, which="both")
    figure.legend(*left.get_legend_handles_labels(), loc="outside right upper")
    save_figure(figure, path)


def main(argv=None) -> int:
    """Exit status 1 when there is nothing to draw."""
    args = parse_args(__doc__, argv)
    found = points(args.results, args.dataset, args.split)
    for p in found:
        likelihood = "no bits/dim" if p.bits_per_dim is None else f"{p.bits_per_dim:.3f} bits/dim"
        print(f"precision {p.precision:.3f}  recall {p.recall:.3f}  Frechet {p.frechet:7.3f}  {likelihood}  {p.name}")
    if not found:
        return 1
    draw(found, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
