"""Rows that are clips: from a column's value to uint8 frames, (F, C, H, W)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageSequence
from datasets import Array3D, Array4D, Dataset, LargeList, List, Video
from datasets import Image as ImageFeature

from hfgen.core.errors import HfgenError
from hfgen.data.decode import ImageReader, converted, has_transparency, open_image, open_source, read_column, source_row
from hfgen.data.loading import READ_AT_ONCE
from hfgen.data.moving import DEFAULT_FRAMES, MOVING_COLUMN, moving_clip
from hfgen.data.subset import draw_rows
from hfgen.data.survey import Survey, survey
from hfgen.data.video_files import video_frames

COLOURS = (1, 3)
LOOKED_AT = 200


@dataclass(frozen=True, kw_only=True)
class ClipReader:
    """Row -> uint8 array (frames, C, resolution, resolution): the first frames of a clip, each as `images` makes it.

    The columns that hold clips: pictures that move, GIFs, lists of pictures, videos, arrays (F, H, W), (F, H, W, C) or (F, C, H, W).
    """

    images: ImageReader
    frames: int

    @property
    def dataset(self) -> Dataset:
        """The rows."""
        return self.images.dataset

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an array."""
        return self.frames, *self.images.shape

    def __call__(self, row: int) -> np.ndarray:
        return self.decode(row, next(self.rows(range(row, row + 1)))[1])

    def rows(self, rows: range) -> Iterator[tuple[int, Any]]:
        """Row numbers and what the column holds there; `HfgenError` where its files are damaged."""
        return zip(rows, read_column(self.dataset, self.images.column, rows), strict=True)

    def decode(self, row: int, value: Any) -> np.ndarray:
        """The array of a row; `HfgenError` for a clip that cannot be read and for one of fewer frames."""
        images, name = self.images, clip_name(self.dataset, self.images.column, row)
        if images.column == MOVING_COLUMN:
            still = converted(open_image(value, name), images.channels, images.background, name)
            return moving_clip(still, images.resolution, self.frames)
        found = _frames(value, name)[: self.frames]
        if len(found) < self.frames:
            raise too_short(name, len(found), self.frames)
        return np.stack(
            [images.fitted(converted(frame, images.channels, images.background, name), row) for frame in found]
        )


def clip_name(dataset: Dataset, column: str, row: int) -> str:
    """What messages call a clip."""
    return f"{source_row(dataset, row)} of clip column {column!r}"


def too_short(name: str, length: int, wanted: int) -> HfgenError:
    """What is said of a clip of fewer frames than are wanted."""
    return HfgenError(
        f"row {name} has {length} frames, of {wanted} that are wanted: leave this clip out, or train with --num_frames {max(length, 1)}"
    )


def find_clip_column(dataset: Dataset, column: str | None) -> str:
    """`column`, or the first that can hold clips when that is None; `HfgenError` lists the columns there are."""
    features = dataset.features
    told = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in features.items())
    if column is not None and column not in features:
        raise HfgenError(f"image_column={column!r} is not in the dataset; its columns are {told}")
    found = [name for name in features if column in (None, name) and holds_clips(features[name])]
    if not found:
        raise HfgenError(
            f"no column of clips{'' if column is None else f' is {column!r}'}; the columns are {told}: name one of videos, GIFs, lists of "
            "images or arrays of uint8 with --image_column"
        )
    return found[0]


def holds_pictures(dataset: Dataset) -> bool:
    """Whether a column holds pictures, one a row."""
    return any(isinstance(feature, ImageFeature) for feature in dataset.features.values())


def holds_clips(feature: Any) -> bool:
    """Whether a column of this type can hold clips."""
    if isinstance(feature, (List, LargeList)):
        return isinstance(feature.feature, ImageFeature)
    return isinstance(feature, (Video, ImageFeature, Array3D, Array4D))


def common_length(dataset: Dataset, column: str, wanted: int | None) -> int:
    """How many frames are taken of each clip: `wanted`, by default all, of pictures that move 8.

    Raises `HfgenError` that names the first clip of another length than the first one, and with `wanted` one that is shorter; and
    for a picture that does not move.
    """
    if column == MOVING_COLUMN:
        return wanted or DEFAULT_FRAMES
    first: int | None = None
    for row, length in _lengths(dataset, column):
        first = length if first is None else first
        name = clip_name(dataset, column, row)
        if length == 1:
            raise HfgenError(
                f"row {name} is a single picture, no clip: for folders of frames pass --dataset_name clips:FOLDER, for pictures that "
                "are made to move --dataset_name moving:NAME"
            )
        if wanted is not None and length < wanted:
            raise too_short(name, length, wanted)
        if wanted is None and length != first:
            raise HfgenError(
                f"row {name} has {length} frames, the first clip {first}: pass --num_frames {min(length, first)} to take so many of "
                "each, or leave this clip out"
            )
    if first is None:
        raise HfgenError(f"there are no clips in column {column!r}")
    return wanted or first


def clip_survey(clips: Dataset, column: str, *, seed: int = 0) -> Survey:
    """What pictures and GIFs are like by their heads; of other clips by the first frames of 200."""
    if isinstance(clips.features[column], ImageFeature):
        return survey(clips, column, seed=seed)
    rows = draw_rows(LOOKED_AT, len(clips), seed=seed).tolist()
    first = [
        _frames(read_column(clips, column, range(row, row + 1))[0], clip_name(clips, column, row))[0] for row in rows
    ]
    return Survey(
        total=len(clips),
        modes=Counter(frame.mode for frame in first),
        sizes=Counter(frame.size for frame in first),
        transparent=sum(map(has_transparency, first)),
        turned=0,
    )


def _lengths(dataset: Dataset, column: str) -> Iterator[tuple[int, int]]:
    for start in range(0, len(dataset), READ_AT_ONCE):
        rows = range(start, min(start + READ_AT_ONCE, len(dataset)))
        for row, value in zip(rows, read_column(dataset, column, rows), strict=True):
            yield row, _length(value, clip_name(dataset, column, row))


def _length(value: Any, name: str) -> int:
    if isinstance(value, dict) and (frames := video_frames(value, name)) is not None:
        return len(frames)
    if isinstance(value, (list, np.ndarray)):
        return len(value)
    open_image(value, name)
    with open_source(value) as image:
        return getattr(image, "n_frames", 1)


def _frames(value: Any, name: str) -> list[PIL.Image.Image]:
    if isinstance(value, list):
        return [open_image(frame, name) for frame in value]
    if isinstance(value, np.ndarray):
        return _of_array(value, name)
    video = video_frames(value, name)
    if video is not None:
        return video
    open_image(value, name)
    with open_source(value) as image:
        return [frame.copy() for frame in PIL.ImageSequence.Iterator(image)]


def _of_array(clip: np.ndarray, name: str) -> list[PIL.Image.Image]:
    if clip.dtype != np.uint8:
        raise HfgenError(f"row {name} holds {clip.dtype}: pass frames as uint8")
    if clip.ndim == 4 and clip.shape[-1] not in COLOURS and clip.shape[1] in COLOURS:
        clip = clip.transpose(0, 2, 3, 1)
    if clip.ndim == 4 and clip.shape[-1] not in COLOURS:
        raise HfgenError(
            f"row {name} is an array of {clip.shape}: pass (F, H, W), (F, H, W, C) or (F, C, H, W), C of 1 or 3"
        )
    return [PIL.Image.fromarray(frame[..., 0] if frame.shape[2:] == (1,) else frame) for frame in clip]
