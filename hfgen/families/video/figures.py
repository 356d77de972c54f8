"""Pictures of a model of clips."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from hfgen.core.media import image_grid, labelled_grid, save_png
from hfgen.core.video import save_clips
from hfgen.data.evaluation_images import EvaluationImages
from hfgen.drawing.draw import draw_samples
from hfgen.families.base import Family
from hfgen.families.text_to_image.task import preview_prompts

SHOWN, STRIPS = 10, 5


def save_video_figures(
    family: Family, pipeline: Any, data: EvaluationImages, out: Path, seed: int, training: Path | None
) -> list[Path]:
    """Write samples.png, samples.gif and strips.png into the folder `out`; returns the paths of those that there are.

    A clip for each caption of a class, or for ten captions of the held-out clips; in the folder of a training itself samples.png is
    the last grid that it drew. strips.png has the frames of held-out clips above those of clips drawn from their captions.
    """
    prompts = preview_prompts(data.companions)[:SHOWN]
    if not prompts:
        return []
    path, animation = out / "samples.png", out / "samples.gif"
    clips = _drawn(family, pipeline, prompts, seed)
    grids = sorted((training / "samples").glob("step-*.png")) if training is not None and out == training else []
    if grids:
        shutil.copyfile(grids[-1], path)
    else:
        save_png(labelled_grid(clips, prompts), path)
    save_clips(clips, animation)
    return [path, animation, *_save_strips(family, pipeline, data, out / "strips.png", seed)]


def _save_strips(family: Family, pipeline: Any, data: EvaluationImages, path: Path, seed: int) -> list[Path]:
    rows = data.some(STRIPS)
    (real,) = data.images.batches([rows])
    captions = data.companions.captions
    if captions is None or real.ndim != len(family.image_shape(pipeline)) + 1:
        return []
    drawn = _drawn(family, pipeline, tuple(captions[row] for row in rows.tolist()), seed, frames=real.shape[1])
    pairs = torch.stack([real.cpu(), drawn], dim=1).flatten(0, 1)
    save_png(image_grid(pairs), path)
    return [path]


def _drawn(
    family: Family, pipeline: Any, prompts: tuple[str, ...], seed: int, frames: int | None = None
) -> torch.Tensor:
    sampler = family.sampler(pipeline, family.sampling_options(prompt=prompts, num_frames=frames))
    samples = draw_samples(sampler, device=pipeline.device, num_images=len(prompts), seed=seed, batch_size=SHOWN)
    return samples.images
