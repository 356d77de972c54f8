"""Pixels between 8 bits and the models' range, and pictures: grids, PNG and GIF files that appear whole or not at all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from hfgen.core.files import whole

CELL = 56
PADDING = 2
BACKGROUND = 96
FRAME_MS = 60
LAST_FRAME_MS = 1500
PICTURE_CHANNELS = (1, 3, 4)
FONT, LONGEST_LABEL = 14, 20
MOST_COLUMNS, MOST_LABELS = 12, 16
CLIPS = 5  # dimensions of (N, F, C, H, W)


def to_model_range(images: torch.Tensor) -> torch.Tensor:
    """uint8 0..255 to float32 value / 127.5 - 1 in [-1, 1]."""
    return images.float().div_(127.5).sub_(1)


def to_uint8(x: torch.Tensor) -> torch.Tensor:
    """Values in [-1, 1] to the nearest of 0..255, uint8 of the same shape; values outside are clamped."""
    return (x.float() * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)


def unit_to_uint8(x: torch.Tensor) -> torch.Tensor:
    """Values in [0, 1], as pipelines give them, to the nearest of 0..255, uint8 of the same shape."""
    return to_uint8(x * 2 - 1)


def to_pil(images: torch.Tensor) -> list[Image.Image]:
    """uint8 images (N, C, H, W) of 1 (grey), 3 (RGB) or 4 channels (RGBA) as PIL images.

    Raises `ValueError` for another shape or dtype.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in PICTURE_CHANNELS:
        raise ValueError(f"{images.dtype} of {tuple(images.shape)}: pass uint8 images (N, C, H, W) with C = 1, 3 or 4")
    arrays = images.permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(a[..., 0] if a.shape[-1] == 1 else a) for a in arrays]


def image_grid(
    images: torch.Tensor | list[Image.Image], columns: int | None = None, scale: int | None = None
) -> Image.Image:
    """One picture of all images, row by row, left to right.

    Args:
        images: uint8 (N, C, H, W) with C = 1, 3 or 4, or PIL images of one size; N >= 1. Of clips, (N, F, C, H, W), each is a row.
        columns: by default as many as make the grid nearly square.
        scale: whole factor of enlargement, bicubic: 8x8 digits are hardly legible as squares; by default a cell is at least 56 pixels high and wide.
    """
    if isinstance(images, torch.Tensor) and images.ndim == CLIPS:
        images, columns = images.flatten(0, 1), images.shape[1]
    cells = to_pil(images) if isinstance(images, torch.Tensor) else images
    columns = columns or math.ceil(math.sqrt(len(cells)))
    rows = math.ceil(len(cells) / columns)
    scale = scale or math.ceil(CELL / min(cells[0].size))
    width, height = (side * scale + PADDING for side in cells[0].size)
    modes = {cell.mode for cell in cells}
    mode = modes.pop() if modes in ({"L"}, {"RGBA"}) else "RGB"
    size = (columns * width + PADDING, rows * height + PADDING)
    colours: dict[str, int | tuple[int, ...]] = {
        "L": BACKGROUND,
        "RGB": (BACKGROUND,) * 3,
        "RGBA": (*(BACKGROUND,) * 3, 255),
    }
    grid = Image.new(mode, size, colours[mode])
    for i, cell in enumerate(cells):
        large = cell.resize((cell.width * scale, cell.height * scale), Image.Resampling.BICUBIC)
        grid.paste(large, (i % columns * width + PADDING, i // columns * height + PADDING))
    return grid


def grid_of_classes(images: torch.Tensor, names: Sequence[str] | None, labels: Sequence[int] | None) -> Image.Image:
    """One picture of images, with the names of their classes, if there are any, beside them."""
    if not names or labels is None:
        return image_grid(images)
    return labelled_grid(images, [names[label] for label in labels])


def labelled_grid(images: torch.Tensor, labels: Sequence[str]) -> Image.Image:
    """One picture with a row for each label, in the order in which they come first, and the label beside it.

    Args:
        images: uint8 (N, C, H, W) with C = 1, 3 or 4; N >= 1. Of clips, (N, F, C, H, W), the first of each label is shown.
        labels: of each image; of one that has more than 12 images the first are shown, of more than 16 labels the first.
    """
    most = MOST_COLUMNS
    if images.ndim == CLIPS:
        most, labels = images.shape[1], [label for label in labels for _ in range(images.shape[1])]
        images = images.flatten(0, 1)
    cells, rows = to_pil(images), dict.fromkeys(labels)
    of_label = {name: [cell for cell, own in zip(cells, labels, strict=True) if own == name] for name in rows}
    shown = {name: of_label[name][:most] for name in list(rows)[:MOST_LABELS]}
    strips = {name: image_grid(row, columns=len(row)) for name, row in shown.items()}
    first = max(strips.values(), key=lambda strip: strip.width)
    font = ImageFont.load_default(FONT)
    words = {name: f"{name[:LONGEST_LABEL]}…" if len(name) > LONGEST_LABEL else name for name in strips}
    margin = round(max(map(font.getlength, words.values()))) + 4 * PADDING
    grid = Image.new(first.mode, (margin + first.width, first.height * len(strips)), "white")
    pen = ImageDraw.Draw(grid)
    for i, (name, strip) in enumerate(strips.items()):
        grid.paste(strip, (margin, i * first.height))
        pen.text((margin - 2 * PADDING, (i + 0.5) * first.height), words[name], fill="black", font=font, anchor="rm")
    return grid


def save_png(image: Image.Image, path: Path) -> None:
    """Write a PNG file, in one step."""
    with whole(path) as beside:
        image.save(beside, format="PNG")


def save_gif(frames: list[Image.Image], path: Path, frame_ms: int = FRAME_MS, last_ms: int = LAST_FRAME_MS) -> None:
    """Write an endless animation of 60 ms a frame whose last frame stays for 1.5 s, in one step."""
    durations = [frame_ms] * (len(frames) - 1) + [last_ms]
    with whole(path) as beside:
        frames[0].save(beside, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
