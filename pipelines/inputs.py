"""Images as users hold them, as tensors. Files that ship to the Hub hold marked copies of this."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import PIL.Image
import torch


def images_to_tensor(images: Any, shape: tuple[int, int, int]) -> torch.Tensor:
    """Images of `shape` (C, H, W) as floats in [-1, 1], (B, C, H, W).

    Takes a PIL image or a list of them, a numpy array (B, H, W, C), (H, W, C) or of grey images (H, W), a tensor
    (B, C, H, W) or (C, H, W), or a list of arrays or tensors of single images. Numbers are uint8 in 0..255 or
    floating point in [0, 1].

    Raises `ValueError` for another type, size, number of channels, or range, and for no image at all.
    """
    images = images if isinstance(images, (list, tuple)) else [images]
    if not images:
        raise ValueError("no images: pass at least one")
    x = torch.cat([_as_tensor(image, shape) for image in images])
    if x.shape[0] == 0:
        raise ValueError("no images: pass at least one")
    return x * 2 - 1


def _as_tensor(image: Any, shape: tuple[int, int, int]) -> torch.Tensor:
    """(B, C, H, W) in [0, 1] of one element of the input."""
    if isinstance(image, PIL.Image.Image):
        return _as_tensor(np.asarray(_checked_mode(image, shape[0])), shape)
    if isinstance(image, np.ndarray):
        if image.dtype.kind not in "biuf":
            raise ValueError(f"pixels of type {image.dtype}: pass uint8 in 0..255 or floating point in [0, 1]")
        image = torch.from_numpy(np.array(image))
        image = image[..., None] if image.ndim == 2 else image
        image = image.movedim(-1, -3) if image.ndim in (3, 4) else image
    elif not isinstance(image, torch.Tensor):
        raise ValueError(f"an image of type {type(image).__name__}: pass PIL images, numpy arrays or tensors")
    image = image[None] if image.ndim == 3 else image
    if image.ndim != 4 or tuple(image.shape[1:]) != shape:
        found = "x".join(map(str, image.shape[1:] if image.ndim == 4 else image.shape))
        raise ValueError(
            f"images of {found} (channels x height x width): this model takes {'x'.join(map(str, shape))}; "
            "convert, resize or crop them"
        )
    return _unit_range(image).float()


def _checked_mode(image: PIL.Image.Image, channels: int) -> PIL.Image.Image:
    """The image, if its mode has as many channels; one of black and white becomes grey."""
    mode = {1: "L", 3: "RGB"}.get(channels)
    if image.mode == "1":
        image = image.convert("L")
    if mode is not None and image.mode != mode:
        raise ValueError(f"a PIL image of mode {image.mode}: this model takes {mode}; use image.convert({mode!r})")
    return image


def _unit_range(image: torch.Tensor) -> torch.Tensor:
    """uint8 or floating point pixels on [0, 1]; `ValueError` for others."""
    if image.dtype == torch.uint8:
        return image / 255
    if not image.is_floating_point():
        raise ValueError(f"pixels of type {image.dtype}: pass uint8 in 0..255 or floating point in [0, 1]")
    if image.numel():
        low, high = image.amin().item(), image.amax().item()
        if not (math.isfinite(low) and math.isfinite(high) and low >= 0 and high <= 1):
            hint = "x / 2 + 0.5 brings [-1, 1] there" if low >= -1 and high <= 1 else "divide 0..255 by 255"
            raise ValueError(f"pixels from {low:.4g} to {high:.4g}: pass values in [0, 1]; {hint}")
    return image
