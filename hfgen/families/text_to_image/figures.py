"""Pictures of a text-to-image model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from hfgen.core.media import labelled_grid, save_png
from hfgen.data.evaluation_images import EvaluationImages
from hfgen.drawing.draw import draw_samples
from hfgen.drawing.in_turn import in_turn
from hfgen.families.base import PREVIEWS, Family
from hfgen.families.text_to_image.task import preview_prompts

ROWS = 10


def save_text_figures(
    family: Family, pipeline: Any, data: EvaluationImages, out: Path, seed: int, training: Path | None
) -> list[Path]:
    """Write samples.png into the folder `out`; returns its path, if there is one.

    A row for each caption of a class, or for ten captions of the images; in the folder of a training itself the last grid that it
    drew. Of images without captions there is none.
    """
    path = out / "samples.png"
    if out == training and (grids := sorted((training / "samples").glob("step-*.png"))):
        shutil.copyfile(grids[-1], path)
        return [path]
    prompts = preview_prompts(data.companions)[:ROWS]
    if not prompts:
        return []
    options = family.sampling_options(prompt=prompts)
    samples = draw_samples(family.sampler(pipeline, options), device=pipeline.device, num_images=PREVIEWS, seed=seed)
    save_png(labelled_grid(samples.images, in_turn(prompts, 0, PREVIEWS)), path)
    return [path]
