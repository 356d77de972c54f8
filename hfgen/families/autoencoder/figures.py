"""Pictures of what an autoencoder keeps of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from hfgen.core.media import image_grid, save_png
from hfgen.data.evaluation_images import EvaluationImages
from hfgen.families.autoencoder.measure import reconstruct

PAIRS, COLUMNS = 40, 10


def save_reconstructions(vae: Any, data: EvaluationImages, out: Path) -> list[Path]:
    """Write reconstructions.png into the folder `out`: rows of images, each above the row of their reconstructions."""
    images = next(data.images.batches([data.some(PAIRS)]))
    pairs = zip(images.cpu().split(COLUMNS), reconstruct(vae, images).cpu().split(COLUMNS), strict=True)
    path = out / "reconstructions.png"
    save_png(image_grid(torch.cat([part for pair in pairs for part in pair]), min(COLUMNS, len(images))), path)
    return [path]
