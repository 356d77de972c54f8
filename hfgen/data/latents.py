"""Latents of an autoencoder in the place of pixels: mean and spread encoded once, z drawn anew at each use."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from tqdm.auto import tqdm

from hfgen.core.errors import HfgenError
from hfgen.core.media import to_model_range
from hfgen.core.memory import free_memory, local_processes
from hfgen.core.resume import tensors_digest
from hfgen.data.batch import RandomSpec
from hfgen.data.loading import MEMORY_SHARE, ImagesInMemory, Rows
from hfgen.data.training_set import TrainingSet

FLOAT_BYTES = 4
PIXELS_AT_ONCE = 1 << 18


@dataclass(frozen=True, kw_only=True)
class Latents:
    """Rows of (mean, spread) of q(z|x), (B, ..., 2c, h, w), as z = (mean + spread eps - shift_factor) scaling_factor.

    Attributes:
        autoencoder: an `AutoencoderKL`, which no training of latents changes.
        shape: of a row's z, (c, h, w), of a clip (F, c, h, w).
        mirrored: training rows hold those of the image and of its mirror image, (B, 2, ..., 2c, h, w), one of which is drawn.
    """

    autoencoder: Any
    shape: tuple[int, ...]
    mirrored: bool = False
    random: ClassVar[RandomSpec] = RandomSpec(uniform={"flip": ()})
    memory_format: ClassVar[torch.memory_format] = torch.contiguous_format

    @property
    def drawn(self) -> RandomSpec:
        """The eps of each row."""
        return RandomSpec(normal={"latent_noise": self.shape})

    @property
    def identity(self) -> Mapping[str, Any]:
        """A digest of the autoencoder's weights, wherever they lie."""
        return {"autoencoder_weights": tensors_digest(self.autoencoder.state_dict())}

    def prepare(self, raw: torch.Tensor, random: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """z of each row, of mirrored rows both with one eps."""
        mean, spread = raw.chunk(2, dim=-3)
        eps = random["latent_noise"]
        if mean.ndim > eps.ndim:
            eps = eps[:, None]
        return scaled(mean + spread * eps, self.autoencoder)

    def augment(self, data: torch.Tensor, random: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Of mirrored rows the mirror image's where `random["flip"]` is at least 1/2."""
        if not self.mirrored:
            return data
        own = random["flip"].view(-1, *[1] * (data.ndim - 2)) < 0.5
        return torch.where(own, data[:, 0], data[:, 1])


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Rows of an autoencoder's (mean, spread), encoded as they are asked for.

    Attributes:
        rows: uint8, (..., C, H, W) each.
        mirrored: those of the mirror image beside them, (2, ..., 2c, h, w).
    """

    rows: Rows
    autoencoder: Any
    mirrored: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, rows: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """As `Rows.batches`."""
        for pixels in self.rows.batches(rows):
            yield self.encoded(pixels)

    def encoded(self, pixels: torch.Tensor) -> torch.Tensor:
        """(mean, spread) of uint8 rows, with the mirror image's where they have it."""
        found = moments(self.autoencoder, pixels)
        if not self.mirrored:
            return found
        return torch.stack([found, moments(self.autoencoder, pixels.flip(-1))], dim=1)


@torch.no_grad()
def moments(autoencoder: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Mean and standard deviation of q(z|x), before shift and scale, of uint8 pixels (..., C, H, W): (..., 2c, h, w), float32."""
    images = pixels.flatten(0, -4)
    at_once = max(1, PIXELS_AT_ONCE // math.prod(images.shape[1:]))
    parts = []
    for part in images.split(at_once):
        q = autoencoder.encode(to_model_range(part).to(autoencoder.device, autoencoder.dtype)).latent_dist
        parts.append(torch.cat([q.mean, q.std], dim=1).float())
    return torch.cat(parts).unflatten(0, pixels.shape[:-3])


def scaled(z: torch.Tensor, autoencoder: Any) -> torch.Tensor:
    """z as a model of latents sees it, (z - shift_factor) scaling_factor."""
    return (z - (autoencoder.config.shift_factor or 0.0)) * autoencoder.config.scaling_factor


def unscaled(latents: torch.Tensor, autoencoder: Any) -> torch.Tensor:
    """The inverse of `scaled`: what the autoencoder decodes."""
    return latents / autoencoder.config.scaling_factor + (autoencoder.config.shift_factor or 0.0)


@torch.no_grad()
def decoded(latents: torch.Tensor, autoencoder: Any) -> torch.Tensor:
    """Images, (..., C, H, W) in [-1, 1] but for what the decoder overshoots, of latents (..., c, h, w)."""
    z = unscaled(latents, autoencoder).to(autoencoder.dtype)
    return autoencoder.decode(z.flatten(0, -4)).sample.float().unflatten(0, z.shape[:-3])


def factor(autoencoder: Any) -> int:
    """How many pixels a side become one: twice as many with each of its levels but the last."""
    return 2 ** (len(autoencoder.config.block_out_channels) - 1)


def latent_shape(autoencoder: Any, shape: Sequence[int]) -> tuple[int, ...]:
    """Of an image's (..., C, H, W) that of its z, (..., c, h, w).

    Raises `HfgenError` for images of other channels than the autoencoder's, and for sides that it does not divide.
    """
    *leading, channels, height, width = shape
    wanted, f = autoencoder.config.in_channels, factor(autoencoder)
    if channels != wanted:
        raise HfgenError(
            f"images of {channels} channels: the autoencoder takes {wanted}, name one of such images with --autoencoder"
        )
    if height % f or width % f:
        below = max(f, min(height, width) // f * f)
        raise HfgenError(
            f"images of {height}x{width}: the autoencoder makes one of {f}x{f} pixels and does not divide that side, use a "
            f"multiple such as --resolution {below}"
        )
    return (*leading, autoencoder.config.latent_channels, height // f, width // f)


def encode_training_set(
    images: TrainingSet,
    autoencoder: Any,
    device: torch.device,
    *,
    shape: Sequence[int] | None = None,
    show_progress: bool,
) -> TrainingSet:
    """The latents of a training set on `device`, whose channels and resolution are then those of z.

    They are encoded once where (mean, spread) of all rows takes at most 30 % of what is free there, else as they come. `shape` is
    that of a row, by default an image's. With random flips image and mirror image are encoded. Errors as `latent_shape`.
    """
    autoencoder = autoencoder.to(device).eval().requires_grad_(False)
    z = latent_shape(autoencoder, shape or images.shape)
    mirrored = bool(getattr(images.representation, "random_flip", False))
    train = Encoded(rows=images.train, autoencoder=autoencoder, mirrored=mirrored)
    validation = Encoded(rows=images.validation, autoencoder=autoencoder)
    rows = len(train) * (1 + mirrored) + len(validation)
    share = MEMORY_SHARE if device.type == "cuda" else MEMORY_SHARE / local_processes()
    fits = rows * 2 * math.prod(z) * FLOAT_BYTES <= share * free_memory(device)
    return replace(
        images,
        train=_in_memory(train, device, show_progress) if fits else train,
        validation=_in_memory(validation, device, show_progress) if fits else validation,
        representation=Latents(autoencoder=autoencoder, shape=z, mirrored=mirrored),
        channels=z[-3],
        resolution=z[-1],
        stream=images.stream and replace(images.stream, encode=train.encoded),
    )


def _in_memory(encoded: Encoded, device: torch.device, show_progress: bool) -> ImagesInMemory:
    parts, rows = [], torch.arange(len(encoded)).split(256)
    with tqdm(total=len(encoded), desc="encoding", unit="row", disable=not show_progress) as bar:
        for found in encoded.batches(rows):
            parts.append(found.to(device))
            bar.update(len(found))
    return ImagesInMemory(torch.cat(parts))
