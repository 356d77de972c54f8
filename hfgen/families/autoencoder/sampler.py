"""What an autoencoder draws: reconstructions of the images that it is shown."""

from __future__ import annotations

from typing import Any

import torch

from hfgen.core.errors import HfgenError
from hfgen.core.media import to_model_range
from hfgen.data.loading import Rows
from hfgen.families.autoencoder.measure import reconstruct


class Reconstructions:
    """Image i is the reconstruction of row i of the images shown, by the mean of z."""

    calls = 0
    fixed_batch = False
    class_names: list[str] | None = None
    how = "reconstructions of the images that they are held against"

    def __init__(self, vae: Any):
        self.vae = vae
        self.images: Rows | None = None

    def show(self, images: Rows) -> None:
        """Take these images, uint8."""
        self.images = images

    def draw(self, generators, first, on_step=None) -> torch.Tensor:
        """As `Sampler.draw`; `HfgenError` where no images are shown."""
        if self.images is None:
            raise HfgenError(
                "an autoencoder draws no images of its own: train a model of its latents, training/train_ddpm.py --autoencoder, or "
                "look at its reconstructions, hfgen figures"
            )
        rows = torch.arange(first, first + len(generators)) % len(self.images)
        (pixels,) = self.images.batches([rows])
        return (to_model_range(reconstruct(self.vae, pixels)) + 1) / 2

    def warm_up(self, generators, first) -> None:
        """The first draw takes no longer than others."""

    def labels(self, count: int) -> torch.Tensor | None:
        """None: there are no classes."""
        return None
