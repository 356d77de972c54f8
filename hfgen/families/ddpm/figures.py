"""Pictures of a diffusion model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from hfgen.core.media import grid_of_classes, save_png
from hfgen.drawing.draw import draw_samples
from hfgen.families.base import PREVIEWS, Family


def save_diffusion_figures(family: Family, pipeline: Any, out: Path, seed: int, training: Path | None) -> list[Path]:
    """Write samples.png into the folder `out`; returns its path, if there is one.

    64 new samples by the default sampler; in the folder of a training itself the last grid that it drew, if it drew any.
    """
    path = out / "samples.png"
    if out == training:
        grids = sorted((training / "samples").glob("step-*.png"))
        if not grids:
            return []
        shutil.copyfile(grids[-1], path)
        return [path]
    sampler = family.sampler(pipeline, family.sampling_options())
    samples = draw_samples(sampler, device=pipeline.device, num_images=PREVIEWS, seed=seed)
    labels = sampler.labels(PREVIEWS)
    grid = grid_of_classes(samples.images, sampler.class_names, None if labels is None else labels.tolist())
    save_png(grid, path)
    return [path]
