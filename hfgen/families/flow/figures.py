"""Pictures of a flow."""

from __future__ import annotations

from pathlib import Path

import torch

from hfgen.core.media import image_grid, save_png, unit_to_uint8
from hfgen.drawing.draw import image_generators
from hfgen.families.base import PREVIEWS
from hfgen.pipelines.pipeline_hfgen_flow import FlowPipeline

TEMPERATURES, COLUMNS = (0.5, 0.7, 0.9, 1.0), 12


def save_flow_figures(pipeline: FlowPipeline, out: Path, seed: int) -> list[Path]:
    """Write samples.png and temperatures.png into the folder `out`; returns their paths."""
    rows = [drawn(pipeline, COLUMNS, seed, temperature) for temperature in TEMPERATURES]
    written = [out / "samples.png", out / "temperatures.png"]
    save_png(image_grid(drawn(pipeline, PREVIEWS, seed)), written[0])
    save_png(image_grid(torch.cat(rows), columns=COLUMNS), written[1])
    return written


def drawn(pipeline: FlowPipeline, count: int, seed: int, temperature: float = 1.0) -> torch.Tensor:
    """The first `count` samples of a seed, uint8 (count, C, H, W)."""
    generators = image_generators(pipeline.device, seed, 0, count)
    return unit_to_uint8(pipeline(count, generators, temperature, output_type="pt").images).cpu()
