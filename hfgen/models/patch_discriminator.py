"""A network that tells images from reconstructions, patch by patch."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

SLOPE = 0.2


class PatchDiscriminator(nn.Module):
    """Logits of overlapping patches, above 0 where they look like those of images.

    Args:
        channels: of the images.
        width: channels of the first layer; each further one has twice as many.
        layers: that halve the side.

    Source: Isola et al. 2017, section 3.2.2; no normalisation of batches, so that a row's logits are its own.
    """

    def __init__(self, channels: int, width: int = 32, layers: int = 2):
        super().__init__()
        widths = [width * 2**i for i in range(layers)]
        parts: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(SLOPE)]
        for before, after in pairwise(widths):
            parts += [nn.Conv2d(before, after, 4, 2, 1), nn.GroupNorm(8, after), nn.LeakyReLU(SLOPE)]
        self.layers = nn.Sequential(*parts, nn.Conv2d(widths[-1], 1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 1, h, w) of images (B, C, H, W) in [-1, 1]."""
        return self.layers(x)
