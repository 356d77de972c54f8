"""Pictures of a variational diffusion model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hfgen.core.plotting import new_figure, save_figure
from hfgen.data.evaluation_images import EvaluationImages
from hfgen.families.base import Family
from hfgen.families.ddpm.figures import save_diffusion_figures
from hfgen.families.vdm.bound import predictor
from hfgen.likelihood.images import Images
from hfgen.likelihood.vdm import VDMTerms, vdm_bound
from hfgen.likelihood.vlb import Estimate

IMAGES, TIMES, POINTS = 32, 25, 401


def save_vdm_figures(
    family: Family, pipeline: Any, data: EvaluationImages, out: Path, seed: int, training: Path | None
) -> list[Path]:
    """Write samples.png, gamma.png and losses.png into the folder `out`; returns the paths of those that there are."""
    vdm = pipeline.vdm
    paths = save_diffusion_figures(family, pipeline, out, seed, training)
    save_figure(gamma_figure(vdm.schedule, vdm.device), out / "gamma.png")
    images = SomeImages(images=data.images, rows=data.some(IMAGES))
    bound = vdm_bound(
        predictor(vdm),
        vdm.schedule,
        images,
        prediction_type=vdm.config.prediction_type,
        evaluations=TIMES * len(images),
        seed=seed,
    )
    save_figure(losses_figure(bound, vdm.schedule, vdm.device), out / "losses.png")
    return [*paths, out / "gamma.png", out / "losses.png"]


@dataclass(frozen=True, kw_only=True)
class SomeImages:
    """Some rows of `images`."""

    images: Images
    rows: torch.Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, rows: Iterable[torch.Tensor], /) -> Iterator[torch.Tensor]:
        """As those of `images`, by their numbers among the rows."""
        return self.images.batches(self.rows[part.cpu()] for part in rows)


@torch.no_grad()
def gamma_figure(schedule: Any, device: torch.device):
    """gamma and SNR over t, beside the line between the same ends."""
    t = torch.linspace(0, 1, POINTS, device=device)
    gamma = schedule(t).cpu().numpy()
    t = t.cpu().numpy()
    line = gamma[0] + (gamma[-1] - gamma[0]) * t
    figure = new_figure(10, 4)
    left, right = figure.subplots(1, 2)
    for values, label, style in ((gamma, "this model", {}), (line, "linear", {"ls": "--", "lw": 0.8})):
        left.plot(t, values, label=label, **style)
        right.semilogy(t, np.exp(-values), label=label, **style)
    left.set(xlabel="t", ylabel="gamma = -log SNR")
    right.set(xlabel="t", ylabel="SNR")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


@torch.no_grad()
def losses_figure(bound: VDMTerms, schedule: Any, device: torch.device):
    """The diffusion term by t and by gamma, in bits/dim, with twice its standard error."""
    parts = len(bound.curve)
    scale = bound.bits_per_dim(Estimate(parts, 0.0)).mean
    mean, error = (values.numpy() * scale for values in (bound.curve, bound.curve_error))
    t = (torch.arange(parts, device=device) + 0.5) / parts
    gamma, rate = schedule(t).cpu().numpy(), schedule.rate(t).cpu().numpy()
    figure = new_figure(10, 4)
    for axes, x, factor, label in zip(
        figure.subplots(1, 2), (t.cpu().numpy(), gamma), (1.0, 1 / rate), ("t", "gamma = -log SNR"), strict=True
    ):
        axes.plot(x, mean * factor, ".-", ms=3, lw=0.8)
        axes.fill_between(x, (mean - 2 * error) * factor, (mean + 2 * error) * factor, alpha=0.3)
        axes.set(xlabel=label, ylabel="bits/dim per unit of " + label.split(" ")[0], ylim=(0, None))
        axes.grid(alpha=0.3)
    return figure
