"""Pictures of a model that follows pictures."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hfgen.core.media import image_grid, save_png
from hfgen.data.evaluation_images import EvaluationImages
from hfgen.drawing.draw import draw_samples
from hfgen.families.base import PREVIEWS, Family

COLUMNS = 10


def save_control_figures(
    family: Family, pipeline: Any, data: EvaluationImages, out: Path, seed: int, training: Path | None
) -> list[Path]:
    """Write control_samples.png (pictures to follow, samples, the images) and samples.png into the folder `out`; returns their paths.

    samples.png is, in the folder of a training, the last grid that it drew. Of images without pictures there are none.
    """
    if data.companions.conditions is None:
        return []
    written = [out / "control_samples.png"]
    rows = data.some(COLUMNS)
    shown = replace(data, companions=data.companions.some(rows))
    samples = _drawn(family, pipeline, shown, len(rows), seed)
    truth = next(iter(data.images.batches([rows]))).cpu()
    pictures = shown.companions.conditions.images
    parts = torch.cat([part.expand_as(truth) for part in (pictures, samples, truth)])
    save_png(image_grid(parts, columns=len(rows)), written[0])
    path = out / "samples.png"
    grids = sorted((training / "samples").glob("step-*.png")) if training is not None and out == training else []
    if grids:
        shutil.copyfile(grids[-1], path)
    else:
        first = replace(data, companions=data.companions.some(torch.arange(min(PREVIEWS, len(data.images)))))
        save_png(image_grid(_drawn(family, pipeline, first, PREVIEWS, seed)), path)
    return [*written, path]


def _drawn(family: Family, pipeline: Any, data: EvaluationImages, count: int, seed: int) -> torch.Tensor:
    sampler = family.sampler(pipeline, family.sampling_on(family.sampling_options(), data))
    return draw_samples(sampler, device=pipeline.device, num_images=count, seed=seed).images
