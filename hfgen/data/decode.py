"""One encoded image to a uint8 array of the model's size."""

from __future__ import annotations

import io
import math
import os
import stat
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageColor
import PIL.ImageOps
from datasets import Array3D, Array4D, Dataset, LargeList, List, Video
from datasets import Image as ImageFeature

from hfgen.core.errors import HfgenError, one_line
from hfgen.data.moving import MOVING_COLUMN, moving_clip

GREY_MODES = ("1", "L", "LA", "La", "I", "F")
HEAD = 4096
WHITE = (255, 255, 255)
Colour = tuple[int, int, int]
RASTER_FORMATS = (
    *("PNG", "JPEG", "MPO", "JPEG2000", "WEBP", "AVIF", "HEIF", "GIF", "BMP", "DIB", "TIFF", "PPM"),
    *("ICO", "PCX", "TGA", "SGI", "QOI", "DDS", "XBM"),
)
NO_IMAGE = "it is in none of the formats of pictures, such as PNG, JPEG, WebP, GIF, BMP or TIFF, or cut short"

# what is too large is refused, with its row: Pillow's warning before would be one more line
warnings.filterwarnings("ignore", category=PIL.Image.DecompressionBombWarning)


@dataclass(frozen=True, kw_only=True)
class ImageReader:
    """Row -> uint8 array (C, resolution, resolution): decode, convert to L or RGB, resize the shorter side, cut a square.

    Without `center_crop` the place of the square is drawn from (seed, row), once for the whole training. What is transparent
    shows the `background`. Of pictures that move the array is the first frame.
    """

    dataset: Dataset
    column: str
    channels: int
    resolution: int
    center_crop: bool
    seed: int
    background: Colour = WHITE

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an array."""
        return self.channels, self.resolution, self.resolution

    def __call__(self, row: int) -> np.ndarray:
        return self.decode(row, next(self.rows(range(row, row + 1)))[1])

    def rows(self, rows: range) -> Iterator[tuple[int, dict]]:
        """Row numbers and what the column holds there, read from the dataset in one piece; `HfgenError` where its files are damaged."""
        return zip(rows, read_column(self.dataset, self.column, rows), strict=True)

    def decode(self, row: int, value: dict) -> np.ndarray:
        """The array of a row from what the column holds there; `HfgenError` for an image that cannot be read."""
        return self.named(row, value, source_row(self.dataset, row))

    def named(self, row: int, value: dict | None, place: str) -> np.ndarray:
        """As `decode`, of a row that may be another dataset's, and whose `place` the error names."""
        name = f"{place} of image column {self.column!r}"
        image = converted(open_image(value, name), self.channels, self.background, name)
        if self.column == MOVING_COLUMN:
            return moving_clip(image, self.resolution, frames=1)[0]
        return self.fitted(image, row)

    def fitted(self, image: PIL.Image.Image, row: int) -> np.ndarray:
        """The array of an image, L or RGB, whose square is cut where those of this row are."""
        scale = self.resolution / min(image.size)
        if scale != 1:
            size = tuple(max(self.resolution, round(side * scale)) for side in image.size)
            image = image.resize(size, PIL.Image.Resampling.BILINEAR)
        if image.size != (self.resolution, self.resolution):
            image = image.crop(self._square(image.size, row))
        array = np.asarray(image)
        return array[None] if self.channels == 1 else array.transpose(2, 0, 1)

    def _square(self, size: tuple[int, int], row: int) -> tuple[int, int, int, int]:
        spare = [side - self.resolution for side in size]
        if self.center_crop:
            left, top = (s // 2 for s in spare)
        else:
            left, top = np.random.default_rng([self.seed, row]).integers(0, [s + 1 for s in spare]).tolist()
        return left, top, left + self.resolution, top + self.resolution


def open_image(value: dict | None, name: str) -> PIL.Image.Image:
    """The decoded image of a row of a dataset from `undecoded`: upright, as its EXIF tag says, and of 8 bits a channel.

    Formats of pixels alone are read, as those of pages, such as EPS and PDF, have Pillow start other programs.

    `HfgenError` tells the `name` of a row that cannot be read, is no regular file, has more pixels than Pillow deems safe, or
    pixels of no known range (32-bit integers, floats).
    """
    try:
        image = open_source(value)
        if image.width * image.height > (PIL.Image.MAX_IMAGE_PIXELS or math.inf):
            raise PIL.Image.DecompressionBombError(f"{image.width}x{image.height} pixels are too many: make it smaller")
        image.load()
        PIL.ImageOps.exif_transpose(image, in_place=True)
    except Exception as error:  # Pillow's readers raise many kinds; each means the same to the user
        reason = NO_IMAGE if isinstance(error, PIL.UnidentifiedImageError) else one_line(error, 120)
        raise HfgenError(f"row {name} is unreadable ({reason}): mend or remove this row and start again") from error
    try:
        return eight_bits(image)
    except ValueError as error:
        raise HfgenError(f"row {name} has {error}: convert the images to 8 bits") from error


def eight_bits(image: PIL.Image.Image) -> PIL.Image.Image:
    """An image of 16 bits a channel as one of 8, another as it is; `ValueError` for 32 bits.

    Pillow's own conversion clips at 255, and forgets that a level may stand for transparency.
    """
    if image.mode in ("I", "F"):
        raise ValueError("32-bit pixels of unknown range")
    if not image.mode.startswith("I;16"):
        return image
    levels = np.asarray(image)
    grey = PIL.Image.fromarray((levels // 257).astype(np.uint8))
    clear = image.info.get("transparency")
    if clear is None:
        return grey
    return PIL.Image.merge("LA", (grey, PIL.Image.fromarray(np.where(levels == clear, 0, 255).astype(np.uint8))))


def converted(image: PIL.Image.Image, channels: int, background: Colour, name: str) -> PIL.Image.Image:
    """An image as L (1 channel) or RGB (3), composited on a colour where it is transparent; `HfgenError` for a mode of no such kind."""
    try:
        if has_transparency(image):
            ground = PIL.Image.new("RGBA", image.size, (*background, 255))
            image = PIL.Image.alpha_composite(ground, image.convert("RGBA"))
        return image.convert("L" if channels == 1 else "RGB")
    except ValueError as error:
        raise HfgenError(f"row {name} is of mode {image.mode}, not of grey or RGB: convert the images") from error


def has_transparency(image: PIL.Image.Image) -> bool:
    """Whether an image, of which no more than its head need be read, has an alpha channel or a colour that stands for none."""
    return image.mode.endswith(("A", "a")) or "transparency" in image.info


def colour(background: str) -> Colour:
    """Red, green and blue, 0..255, of a colour's name or #rrggbb; `HfgenError` for another text."""
    try:
        return PIL.ImageColor.getrgb(background)[:3]
    except ValueError as error:
        raise HfgenError(
            f"background={one_line(background, 40)!r} is no colour: pass a name such as white, or #rrggbb"
        ) from error


def open_source(value: dict | None) -> PIL.Image.Image:
    """A row's image of which no more than its head is read; errors are Pillow's own."""
    return PIL.Image.open(_source(value), formats=raster_formats())


def head_of(value: Any) -> tuple[int, bytes]:
    """The length of a row's image file and its first 4,096 bytes; of one that cannot be read nothing.

    Of several images the length of all and the beginning of the first, of an array that of its bytes.
    """
    if isinstance(value, np.ndarray):
        return value.nbytes, value.tobytes()[:HEAD]
    if isinstance(value, list):
        heads = [head_of(part) for part in value]
        return sum(length for length, _ in heads), heads[0][1] if heads else b""
    try:
        source = _source(value)
        if isinstance(source, io.BytesIO):
            return source.getbuffer().nbytes, source.read(HEAD)
        with open(source, "rb") as file:
            return os.stat(source).st_size, file.read(HEAD)
    except (OSError, ValueError):
        return 0, b""


def _source(value: dict | None) -> io.BytesIO | str:
    """What Pillow opens: a row's bytes, or its file, which must be one: a pipe or device would be waited for."""
    value = value or {}
    if value.get("bytes") is not None:
        return io.BytesIO(value["bytes"])
    path = value.get("path")
    if path is None:
        raise ValueError("there is no image")
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(f"{path} is no regular file")
    return path


@cache
def raster_formats() -> tuple[str, ...]:
    """Those of `RASTER_FORMATS` that this Pillow reads."""
    PIL.Image.init()
    return tuple(name for name in RASTER_FORMATS if name in PIL.Image.OPEN)


def read_column(dataset: Dataset, column: str, rows: range) -> list:
    """What a column of `undecoded` holds in consecutive rows; `HfgenError` where the dataset's files are damaged."""
    try:
        values = dataset[rows.start : rows.stop][column]
        return values.to_pylist() if hasattr(values, "to_pylist") else values
    except Exception as error:  # Arrow has its own for each kind of damage
        raise HfgenError(
            f"rows {rows.start} to {rows.stop - 1} of column {column!r} cannot be read ({one_line(error, 120)}): the dataset's "
            "files are damaged, make them anew"
        ) from error


def source_row(dataset: Dataset, row: int) -> str:
    """The number that a row has in its source, also when images were held out of it, and the name of its split."""
    indices = dataset._indices
    number = row if indices is None else indices.column(0)[row].as_py()
    return f"{number} of split {str(dataset.split)!r}" if dataset.split is not None else str(number)


def undecoded(dataset: Dataset, column: str) -> Dataset:
    """The image column alone, as file bytes or paths, so that a bad row is met by us and named.

    Of several images a row or videos lists or dicts of such, of arrays those of numpy.
    """
    feature = dataset.features[column]
    if isinstance(feature, (Array3D, Array4D)):
        return dataset.select_columns([column]).with_format("numpy", dtype=np.dtype(feature.dtype))
    if isinstance(feature, (List, LargeList, Video)):
        return dataset.select_columns([column]).with_format("arrow")
    return dataset.select_columns([column]).cast_column(column, ImageFeature(decode=False))


def channels_of(mode: str) -> int:
    """1 for a grey image's mode, 3 for any other."""
    return 1 if mode in GREY_MODES or mode.startswith("I;16") else 3
