"""What images are like, by their heads alone: modes, sizes, transparency."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import PIL.Image
from datasets import Dataset

from hfgen.core.errors import HfgenError
from hfgen.data.decode import channels_of, has_transparency, open_image, open_source, read_column, source_row
from hfgen.data.loading import READ_AT_ONCE
from hfgen.data.subset import draw_rows

LOOKED_AT = 20_000
ORIENTATION = 0x0112
UPRIGHT = (None, 1)
ON_THEIR_SIDE = (5, 6, 7, 8)
PLAIN_MODES = ("L", "LA", "RGB", "RGBA")
MODE_WORDS = {"1": "in black and white", "P": "with a palette", "PA": "with a palette", "I;16": "of 16 bits a channel"}


@dataclass(frozen=True, kw_only=True)
class Survey:
    """How many images there are of each kind.

    Attributes:
        total: images of the dataset, of which at most 20,000 are looked at.
        modes, sizes: Pillow's mode, and (width, height) of the upright image, with the number of images.
        transparent, turned: images with transparency, and those that an EXIF tag turns.
    """

    total: int
    modes: Counter[str]
    sizes: Counter[tuple[int, int]]
    transparent: int
    turned: int

    def __add__(self, other: Survey) -> Survey:
        return Survey(
            total=self.total + other.total,
            modes=self.modes + other.modes,
            sizes=self.sizes + other.sizes,
            transparent=self.transparent + other.transparent,
            turned=self.turned + other.turned,
        )

    @property
    def seen(self) -> int:
        """Images whose heads could be read."""
        return self.modes.total()

    @property
    def coloured(self) -> int:
        """Images that are not grey."""
        return sum(count for mode, count in self.modes.items() if channels_of(mode) == 3)

    @property
    def channels(self) -> int:
        """1 where all images are grey, else 3."""
        return 3 if self.coloured else 1

    @property
    def side(self) -> int:
        """The median of the shorter sides, the lower one of two."""
        sides = sorted(min(size) for size in self.sizes.elements())
        return sides[(len(sides) - 1) // 2]

    def changes(self, channels: int, resolution: int, background: str, *, center_crop: bool) -> list[str]:
        """What is done to images so that all are of one kind, in sentences; none where nothing is."""
        mode = "grey" if channels == 1 else "RGB"
        of = f"of {self.seen:,} images" + (" looked at" if self.seen < self.total else "")
        grey = self.seen - self.coloured
        told = []
        if channels == 3 and grey:
            told.append(f"{grey:,} {of} {_are(grey)} grey: taken as RGB, as the others or the model are in colour")
        if channels == 1 and self.coloured:
            told.append(f"{self.coloured:,} {of} {_are(self.coloured)} in colour: taken as grey, as the model is")
        told += [
            f"{count:,} {of} {_are(count)} {MODE_WORDS.get(kind[:4], kind)}: taken as {mode} of 8 bits"
            for kind, count in sorted(self.modes.items())
            if kind not in PLAIN_MODES
        ]
        if self.transparent:
            told.append(
                f"{self.transparent:,} {of} {_are(self.transparent)} transparent in parts: composited on {background}, "
                "--background names another colour"
            )
        if self.turned:
            told.append(f"{self.turned:,} {of} {_are(self.turned)} turned upright, as the EXIF tag says")
        return told + self._resizing(resolution, of, center_crop)

    def _resizing(self, resolution: int, of: str, center_crop: bool) -> list[str]:
        others = Counter({size: count for size, count in self.sizes.items() if size != (resolution, resolution)})
        if not others:
            return []
        sizes = sorted(others, key=lambda size: (size[0] * size[1], size))
        span = " to ".join(dict.fromkeys(f"{width}x{height}" for width, height in (sizes[0], sizes[-1])))
        enlarged = sum(count for size, count in others.items() if min(size) < resolution)
        told = f"{others.total():,} {of} {_are(others.total())} of {span}: the shorter side is made {resolution}"
        if enlarged:
            told += f", which enlarges {enlarged:,}"
        if any(width != height for width, height in others):
            told += f", and a square cut {'from the middle' if center_crop else 'at a place drawn for each'}"
        return [told]


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def survey(pictures: Dataset, column: str, *, seed: int = 0, most: int = LOOKED_AT) -> Survey:
    """Look at the images of an undecoded column: all, or `most` drawn by `seed`.

    What cannot be read is left to the decoder, which names it; `HfgenError` where nothing can.
    """
    rows = draw_rows(most, len(pictures), seed=seed)
    chosen = pictures if len(rows) == len(pictures) else pictures.select(rows.tolist())
    modes: Counter[str] = Counter()
    sizes: Counter[tuple[int, int]] = Counter()
    transparent = turned = 0
    for head in _heads(chosen, column):
        modes[head.mode] += 1
        sizes[head.size[::-1] if head.orientation in ON_THEIR_SIDE else head.size] += 1
        transparent += head.transparent
        turned += head.orientation not in UPRIGHT
    if not modes:
        open_image(pictures[0][column], f"{source_row(pictures, 0)} of image column {column!r}")
        raise HfgenError(f"no image of column {column!r} can be read: mend the images and start again")
    return Survey(total=len(pictures), modes=modes, sizes=sizes, transparent=transparent, turned=turned)


class Head(NamedTuple):
    """Of an image file."""

    mode: str
    size: tuple[int, int]
    transparent: bool
    orientation: int | None


def _heads(pictures: Dataset, column: str) -> Iterator[Head]:
    for start in range(0, len(pictures), READ_AT_ONCE):
        for value in read_column(pictures, column, range(start, min(start + READ_AT_ONCE, len(pictures)))):
            try:
                with open_source(value) as image:
                    # a PNG's own method would read its pixels, to look behind them
                    orientation = PIL.Image.Image.getexif(image).get(ORIENTATION)
                    head = Head(image.mode, image.size, has_transparency(image), orientation)
            except Exception:  # whatever it is, the decoder meets it too
                continue
            yield head
