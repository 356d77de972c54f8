"""From a dataset's name to the splits to train on and to hold out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as Pillow

from hfgen.core.errors import HfgenError, one_line
from hfgen.data.clip_sources import CLIPS, MOVING, clip_folder, split_name
from hfgen.data.digits import DIGITS, embedded_digits
from hfgen.data.labels import class_labels, class_names
from hfgen.data.moving import MOVING_COLUMN
from hfgen.data.subset import draw_rows

HELD_OUT_FRACTION = 0.1
HELD_OUT_MOST = 2000
TRAIN, TEST, ROW = "train", "test", "__row__"
SHARDS, METADATA = {".parquet", ".arrow", ".tar"}, ("metadata.parquet",)
Given = Dataset | DatasetDict


def load_source(
    dataset_name: str | None,
    dataset_config_name: str | None = None,
    train_data_dir: str | None = None,
    cache_dir: str | None = None,
    dataset: Given | None = None,
    *,
    streaming: bool = False,
) -> DatasetDict:
    """All splits of a source, the first that is given of these:

    - `dataset`, an object of `datasets`;
    - `train_data_dir` or `dataset_name` as a place on disk: a folder of image files, perhaps in folders by class or with a
      metadata.csv, of Parquet files or WebDataset shards, in a Hub layout or from `save_to_disk`, or a single such file;
    - `dataset_name` as the embedded "digits" or a repository;
    - `dataset_name` as moving:NAME, the pictures of the source NAME, each made to move, or clips:FOLDER, a folder whose folders of
      pictures are clips.

    With `streaming` what can be read as it is needed is an IterableDatasetDict, and a place may be a URL that fsspec knows.

    Raises `HfgenError` when there is no such source or the Hub cannot be reached.
    """
    if dataset is not None:
        return _given(dataset)
    if train_data_dir is not None and not Path(train_data_dir).exists():
        raise HfgenError(f"train_data_dir={train_data_dir!r} is no folder or file: pass one of images")
    place = train_data_dir if train_data_dir is not None else dataset_name
    if place is None:
        raise HfgenError("no images are named: pass --dataset_name or --train_data_dir")
    if train_data_dir is None:
        prefix, rest = split_name(place)
        if prefix == MOVING:
            return _moving(load_source(rest, dataset_config_name, cache_dir=cache_dir))
        if prefix == CLIPS:
            return clip_folder(rest)
    if place == DIGITS and train_data_dir is None:
        return embedded_digits()
    if any((Path(place) / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return _from_disk(place)
    load = partial(load_by, shown=place, cache_dir=cache_dir, streaming=streaming)
    if Path(place).is_file():
        path = Path(place).resolve()
        return load(str(path.parent), data_files=path.name)
    if train_data_dir is not None and dataset_config_name is None and _is_image_folder(place):
        return load("imagefolder", data_dir=place)
    return load(place, name=dataset_config_name)


def _moving(source: DatasetDict) -> DatasetDict:
    """With the image column under the name by which the readers know that its pictures move."""
    return DatasetDict(
        {name: part.rename_column(find_image_column(part, None), MOVING_COLUMN) for name, part in source.items()}
    )


def _given(dataset: Given) -> DatasetDict:
    """With rows as Python values, whatever format was set."""
    if isinstance(dataset, Dataset):
        dataset = DatasetDict({TRAIN: dataset})
    if not isinstance(dataset, DatasetDict):
        raise HfgenError(
            f"dataset is a {type(dataset).__name__}: pass a Dataset or DatasetDict of the library datasets; a streamed "
            "one only to a training with streaming=True"
        )
    return DatasetDict({name: part.with_format(None) for name, part in dataset.items()})


def _is_image_folder(folder: str) -> bool:
    """Whether there are image files, and no shards of which a picture is only an ornament."""
    endings = {
        os.path.splitext(name)[1].lower() for *_, names in os.walk(folder) for name in names if name not in METADATA
    }
    return not endings & SHARDS and bool(endings & Pillow.registered_extensions().keys())


def _from_disk(folder: str) -> DatasetDict:
    try:
        found = datasets.load_from_disk(folder)
    except Exception as error:  # JSON, Arrow and `datasets` have their own for each kind of damage
        reason = f"{type(error).__name__}: {one_line(error, 200)}"
        raise HfgenError(f"dataset {folder!r} is damaged ({reason}): save it again with save_to_disk") from error
    return found if isinstance(found, DatasetDict) else DatasetDict(train=found)


def load_by(builder: str, *, shown: str, **arguments: Any) -> DatasetDict:
    """What `datasets.load_dataset` makes of it, with whose arguments; `HfgenError` names the place as `shown`."""
    try:
        return datasets.load_dataset(builder, **arguments)
    except Exception as error:  # the loader raises whatever its readers raise; each means: no dataset
        raise HfgenError(
            f"dataset {shown!r} cannot be loaded ({type(error).__name__}: {one_line(error, 200)}): check the name; without a network pass "
            f"--dataset_name with a local path, or --dataset_name {DIGITS} for the embedded digits"
        ) from error


@dataclass(frozen=True, kw_only=True)
class Splits:
    """What to train on, and what to hold out.

    Attributes:
        held_out: in words, where the held-out images come from.
        held_out_split: that they are rows of.
        rows: their numbers in it, in their order; None for all.
        train_rows: the numbers of the training rows in their split, in their order.
    """

    train: Dataset
    validation: Dataset
    held_out: str
    held_out_split: str
    rows: Sequence[int] | None
    train_rows: Sequence[int]


def choose_splits(
    source: DatasetDict, train_split: str, validation_split: str | None, *, label_column: str | None, seed: int
) -> Splits:
    """The training split and the held-out one.

    Without a split named `validation_split`, or where that is the training split, a tenth of the training images is held out,
    2,000 at most, by `seed`, with the classes in proportion when the labels are known.

    Raises `HfgenError` for an unknown or empty split.
    """
    train = _split(source, train_split)
    if validation_split == train_split:
        validation_split = None
    if validation_split is not None and validation_split in source:
        return Splits(
            train=train,
            validation=_split(source, validation_split),
            held_out=f"the split {validation_split!r}",
            held_out_split=validation_split,
            rows=None,
            train_rows=range(len(train)),
        )
    count = min(int(len(train) * HELD_OUT_FRACTION), HELD_OUT_MOST)
    if count < 1:
        raise HfgenError(
            f"train_split={train_split!r} has {len(train)} images: too few to hold some out; use 10 or more"
        )
    missing = "" if validation_split is None else f" (there is no split {validation_split!r})"
    parts, rows = _hold_out(train, count, label_column, seed)
    return Splits(
        train=parts[TRAIN],
        validation=parts[TEST],
        held_out=f"{count:,} taken from {train_split!r}{missing}",
        held_out_split=train_split,
        rows=rows[TEST],
        train_rows=rows[TRAIN],
    )


def _hold_out(
    train: Dataset, count: int, label_column: str | None, seed: int
) -> tuple[Mapping[str, Dataset], Mapping[str, Sequence[int]]]:
    """The rows that stay, "train", and those held out, "test", and the numbers of both."""
    if isinstance(train.features.get(label_column), Value):
        labels = class_labels(train, label_column, class_names(train, label_column))
        held_out = draw_rows(count, len(train), labels, seed=seed).numpy()
        rows = {TRAIN: np.setdiff1d(np.arange(len(train)), held_out), TEST: held_out}
        return {name: train.select(part) for name, part in rows.items()}, rows
    parts = _divided(train, count, label_column, seed)
    return parts, _kept_numbers(train, parts) or _numbers_of_copy(train, count, label_column, seed)


def _kept_numbers(train: Dataset, parts: DatasetDict) -> dict[str, Sequence[int]] | None:
    """The numbers of the rows of both parts, as `datasets` keeps them; None where it does not.

    It keeps none of a part that lies in one piece, whose rows are those that the other lacks, in their order.
    """
    kept = {name: part._indices.column(0).to_numpy() for name, part in parts.items() if part._indices is not None}
    if train._indices is not None or not kept:
        return None
    everything = np.arange(len(train))
    (one, *_) = kept.values()
    return {name: kept[name] if name in kept else np.setdiff1d(everything, one) for name in parts}


def _numbers_of_copy(train: Dataset, count: int, label_column: str | None, seed: int) -> dict[str, Sequence[int]]:
    """The same by dividing, in the same way, numbers alone; of many rows that takes its time."""
    columns = {} if label_column is None else {label_column: train[label_column][:]}
    features = Features({name: train.features[name] for name in columns} | {ROW: Value("int64")})
    numbered = Dataset.from_dict({**columns, ROW: range(len(train))}, features=features)
    told = _divided(numbered, count, label_column, seed)
    return {name: told[name][ROW][:] for name in (TRAIN, TEST)}


def _divided(train: Dataset, count: int, label_column: str | None, seed: int) -> DatasetDict:
    stratify = label_column if isinstance(train.features.get(label_column), ClassLabel) else None
    try:
        return train.train_test_split(count, seed=seed, stratify_by_column=stratify)
    except ValueError:  # a class with a single image cannot be split in proportion
        return train.train_test_split(count, seed=seed)


def _split(source: DatasetDict, name: str) -> Dataset:
    if name not in source:
        raise HfgenError(f"train_split={name!r} is not in the dataset: it has {', '.join(source)}")
    if len(source[name]) == 0:
        raise HfgenError(f"split {name!r} is empty: choose another with --train_split or --validation_split")
    return source[name]


def find_image_column(dataset: Dataset, image_column: str | None) -> str:
    """`image_column`, or the first column of type `Image` when that is None; `HfgenError` lists the columns there are."""
    features = dataset.features
    columns = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in features.items())
    if image_column is None:
        found = [name for name, feature in features.items() if isinstance(feature, Image)]
        if not found:
            raise HfgenError(
                f"the dataset has no image column; its columns are {columns}: name one with --image_column"
            )
        return found[0]
    if image_column not in features:
        raise HfgenError(f"image_column={image_column!r} is not in the dataset; its columns are {columns}")
    if not isinstance(features[image_column], Image) and not _holds_files(features[image_column]):
        raise HfgenError(f"image_column={image_column!r} holds no images; the columns are {columns}")
    return image_column


def _holds_files(feature: object) -> bool:
    """Whether a column holds encoded images that nobody has called so: bytes, or bytes with a path."""
    if isinstance(feature, Value):
        return feature.dtype in ("binary", "large_binary")
    return isinstance(feature, dict) and set(feature) == {"bytes", "path"}
