"""Clips by the name of their source: pictures that move, and a folder whose folders of pictures are clips."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Features, List
from datasets import Image as ImageFeature
from PIL import Image as Pillow

from hfgen.core.errors import HfgenError

MOVING, CLIPS = "moving:", "clips:"
CLIP_COLUMN, LABEL_COLUMN = "clip", "label"
SPLITS = ("train", "validation", "test")
LEAST_FRAMES = 2


def split_name(name: str) -> tuple[str, str]:
    """The prefix of a source's name, "moving:", "clips:" or "", and what it stands before."""
    prefix = next((p for p in (MOVING, CLIPS) if name.startswith(p)), "")
    return prefix, name.removeprefix(prefix)


def clip_folder(folder: str) -> DatasetDict:
    """Of a folder each folder that holds pictures as a clip, its frames in the order of their names; columns "clip" and, where there
    are classes, "label".

    Folders train, validation and test are splits, without them all is "train"; a folder between them and the clips is a class.
    Raises `HfgenError` for a folder without clips.
    """
    root = Path(folder)
    if not root.is_dir():
        raise HfgenError(f"{CLIPS}{folder}: there is no such folder: name one whose folders of pictures are clips")
    named = [name for name in SPLITS if (root / name).is_dir()]
    parts = {name: list(_clips(root / name)) for name in named} or {"train": list(_clips(root))}
    if not any(parts.values()):
        raise HfgenError(
            f"{CLIPS}{folder}: no folder in it holds {LEAST_FRAMES} pictures or more: put the frames of each clip into a folder of "
            "their own; GIFs are clips as they are, named without the prefix"
        )
    names = sorted({name for clips in parts.values() for _, name in clips})
    labelled = "" not in names
    return DatasetDict({split: _dataset(clips, names if labelled else None) for split, clips in parts.items()})


def _clips(root: Path) -> Iterator[tuple[list[str], str]]:
    """The frames of each clip, and the name of its class, "" for none."""
    endings = Pillow.registered_extensions().keys() - {".gif"}
    for place, folders, files in os.walk(root):
        folders.sort()
        frames = sorted(name for name in files if os.path.splitext(name)[1].lower() in endings)
        if len(frames) >= LEAST_FRAMES:
            above = Path(place).relative_to(root).parent
            yield [str(Path(place) / name) for name in frames], "" if above == Path() else above.as_posix()


def _dataset(clips: list[tuple[list[str], str]], names: list[str] | None) -> Dataset:
    columns: dict[str, list] = {CLIP_COLUMN: [frames for frames, _ in clips]}
    features = {CLIP_COLUMN: List(ImageFeature())}
    if names is not None:
        columns[LABEL_COLUMN] = [names.index(name) for _, name in clips]
        features[LABEL_COLUMN] = ClassLabel(names=names)
    return Dataset.from_dict(columns, features=Features(features))
