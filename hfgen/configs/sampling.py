"""What to draw from a trained model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hfgen.configs.flags import NOT_NEGATIVE, POSITIVE, flag

COMPILE = "torch.compile the network of a diffusion model: half a minute first (seconds the next time), then faster"


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How many images, from which seed; what is the family's own stands in `options`.

    Attributes:
        options: values of the family's `sampling_options`, by name, such as {"steps": 20}.
    """

    num_images: int = flag(64, "images to draw", range=POSITIVE)
    seed: int = flag(0, "image i depends on the seed and i", range=NOT_NEGATIVE)
    batch_size: int = flag(64, "images at once", range=POSITIVE)
    compile: bool = flag(False, COMPILE)
    trajectory: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
