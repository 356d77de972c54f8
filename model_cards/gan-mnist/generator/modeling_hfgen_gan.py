"""The two networks of a GAN (Goodfellow et al. 2014) as diffusers models. This file needs diffusers and what comes with it alone."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

SLOPE = 0.2
MOST_STAGES, MOST_CLASSES = 10, 100_000


class Normalize(nn.Module):
    """Features of each place divided by their root mean square over the channels. Source: Karras et al. 2018, section 4.2."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As x, (B, C, ...)."""
        return x * (x.float().square().mean(1, keepdim=True) + 1e-8).rsqrt().to(x.dtype)


class GANGenerator(ModelMixin, ConfigMixin):
    """Images of noise, by transposed convolutions that double the side (after Radford et al. 2016).

    Args:
        in_channels, sample_size: the images are (in_channels, sample_size, sample_size).
        latent_size: numbers of noise an image.
        block_out_channels: of each side, the smallest first; the side doubles from each to the next.
        num_classes: that it is told; None: none.

    Raises `ValueError` for values out of their ranges.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 1,
        sample_size: int = 28,
        latent_size: int = 64,
        block_out_channels: tuple[int, ...] = (128, 64, 32),
        num_classes: int | None = None,
    ):
        super().__init__()
        check_sizes(self.config, ("in_channels", "sample_size", "latent_size"))
        self.side = sample_size // 2 ** (len(block_out_channels) - 1)
        self.classes = None if num_classes is None else nn.Embedding(num_classes, latent_size)
        first, *rest = block_out_channels
        told = latent_size * (1 if num_classes is None else 2)
        self.dense = nn.Linear(told, first * self.side**2)
        stages: list[nn.Module] = []
        for before, after in zip(block_out_channels, rest, strict=False):
            stages += [nn.LeakyReLU(SLOPE), Normalize(), nn.ConvTranspose2d(before, after, 4, 2, 1)]
        self.stages = nn.Sequential(*stages, nn.LeakyReLU(SLOPE), Normalize())
        self.conv_out = nn.Conv2d(block_out_channels[-1], in_channels, 3, padding=1)

    def forward(self, sample: torch.Tensor, class_labels: torch.Tensor | None = None) -> torch.Tensor:
        """Images (B, C, H, W) in [-1, 1], of standard normal noise (B, latent_size) and, of a model of classes, int64 labels (B,)."""
        told = Normalize()(sample)
        if self.classes is not None:
            told = torch.cat([told, Normalize()(self.classes(class_labels).to(told.dtype))], dim=1)
        x = self.dense(told).unflatten(1, (-1, self.side, self.side))
        if sample.device.type == "cpu":
            x = x.contiguous(memory_format=torch.channels_last)
        return torch.tanh(self.conv_out(self.stages(x)))


class GANDiscriminator(ModelMixin, ConfigMixin):
    """A logit of whether images are real, by convolutions that halve the side; of classes by a projection (Miyato & Koyama 2018).

    Args:
        in_channels, sample_size: the images are (in_channels, sample_size, sample_size).
        block_out_channels: of each side, the largest first; the side halves from each to the next, and once before the first.
        features: of the dense layer before the logit.
        num_classes: that it is told; None: none.
        spectral: whether each layer's weights are divided by their spectral norm (Miyato et al. 2018).

    Raises `ValueError` for values out of their ranges.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 1,
        sample_size: int = 28,
        block_out_channels: tuple[int, ...] = (32, 64, 128),
        features: int = 128,
        num_classes: int | None = None,
        spectral: bool = False,
    ):
        super().__init__()
        check_sizes(self.config, ("in_channels", "sample_size", "features"))
        wrap = spectral_norm if spectral else _as_it_is
        *halved, last = block_out_channels
        stages: list[nn.Module] = []
        for before, after in zip((in_channels, *halved), halved, strict=False):
            stages += [wrap(nn.Conv2d(before, after, 4, 2, 1)), nn.LeakyReLU(SLOPE)]
        stages += [wrap(nn.Conv2d((in_channels, *halved)[-1], last, 3, padding=1)), nn.LeakyReLU(SLOPE)]
        self.stages = nn.Sequential(*stages)
        side = sample_size // 2 ** len(halved)
        self.dense = wrap(nn.Linear(last * side**2, features))
        self.logit = wrap(nn.Linear(features, 1))
        self.classes = None if num_classes is None else wrap(nn.Embedding(num_classes, features))

    def forward(self, sample: torch.Tensor, class_labels: torch.Tensor | None = None) -> torch.Tensor:
        """(B,), of images (B, C, H, W) in [-1, 1]; of a model of classes by int64 labels (B,)."""
        h = F.leaky_relu(self.dense(self.stages(sample).flatten(1)), SLOPE)
        logit = self.logit(h)[:, 0]
        if self.classes is not None:
            logit = logit + (self.classes(class_labels) * h).mean(1)
        return logit.to(torch.promote_types(logit.dtype, torch.float32))


def _as_it_is(module: nn.Module) -> nn.Module:
    return module


def check_sizes(config: Any, names: tuple[str, ...]) -> None:
    """Raise `ValueError` for sizes that are none, and for a side that cannot be halved as often as there are channels."""
    for name in names:
        if not _is_positive(getattr(config, name)):
            raise ValueError(f"{name}={getattr(config, name)!r}: a whole number, 1 or more")
    channels, classes = config.block_out_channels, config.num_classes
    if not isinstance(channels, (list, tuple)) or not channels or not all(map(_is_positive, channels)):
        raise ValueError(f"block_out_channels={channels!r}: a list of whole numbers, 1 or more each")
    if len(channels) > MOST_STAGES:
        raise ValueError(f"block_out_channels: {len(channels)} stages, {MOST_STAGES} at most")
    if classes is not None and not (_is_positive(classes) and classes <= MOST_CLASSES):
        raise ValueError(f"num_classes={classes!r}: a whole number from 1 to {MOST_CLASSES}, or none")
    if config.sample_size % 2 ** (len(channels) - 1):
        raise ValueError(
            f"sample_size={config.sample_size} cannot be halved {len(channels) - 1} times: give block_out_channels fewer numbers"
        )


def _is_positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
