"""One encoded image to a uint8 array of the model's size."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import PIL.Image
import PIL.ImageOps
from datasets import Dataset
from datasets import Image as ImageFeature

from hfgen.errors import HfgenError

GREY_MODES = ("1", "L", "LA", "La")


@dataclass(frozen=True)
class ImageReader:
    """Row -> uint8 array (C, resolution, resolution): decode, convert to L or RGB, resize the shorter side, cut a square.

    Without `center_crop` the place of the square is drawn from (seed, row), once for the whole training.
    """

    dataset: Dataset
    column: str
    channels: int
    resolution: int
    center_crop: bool
    seed: int

    def __call__(self, row: int) -> np.ndarray:
        image = open_image(self.dataset, self.column, row).convert("L" if self.channels == 1 else "RGB")
        scale = self.resolution / min(image.size)
        if scale != 1:
            size = tuple(max(self.resolution, round(side * scale)) for side in image.size)
            image = image.resize(size, PIL.Image.Resampling.BILINEAR)
        if image.size != (self.resolution, self.resolution):
            image = image.crop(self._square(image.size, row))
        array = np.asarray(image)
        return array[None] if self.channels == 1 else array.transpose(2, 0, 1)

    def _square(self, size, row):
        spare = [side - self.resolution for side in size]
        if self.center_crop:
            left, top = (s // 2 for s in spare)
        else:
            left, top = np.random.default_rng([self.seed, row]).integers(0, [s + 1 for s in spare]).tolist()
        return left, top, left + self.resolution, top + self.resolution


def open_image(dataset: Dataset, column: str, row: int) -> PIL.Image.Image:
    """The decoded image of a row of a dataset from `undecoded`: upright, as its EXIF tag says, and of 8 bits a channel.

    `HfgenError` names a row that cannot be read and one whose pixels have no known range (32-bit integers and floats).
    """
    try:
        value = dataset[row][column]
        source = io.BytesIO(value["bytes"]) if value["bytes"] is not None else value["path"]
        image = PIL.Image.open(source)
        image.load()
        PIL.ImageOps.exif_transpose(image, in_place=True)
    except Exception as error:  # Pillow's readers raise many kinds; each means the same to the user
        raise HfgenError(
            f"row {row} of image column {column!r} is unreadable ({' '.join(str(error).split())[:120]}): "
            "mend or remove this row and start again"
        ) from error
    if image.mode in ("I", "F"):
        raise HfgenError(
            f"row {row} of image column {column!r} has 32-bit pixels of unknown range: convert the images to 8 bits"
        )
    if image.mode.startswith("I;16"):  # Pillow's own conversion clips at 255
        image = PIL.Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    return image


def undecoded(dataset: Dataset, column: str) -> Dataset:
    """The image column alone, as file bytes or paths, so that a bad row is met by us and named."""
    return dataset.select_columns([column]).cast_column(column, ImageFeature(decode=False))


def channels_of(image: PIL.Image.Image) -> int:
    """1 for a grey image, 3 for any other."""
    return 1 if image.mode in GREY_MODES else 3
