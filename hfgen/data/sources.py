"""From a dataset's name to the splits to train on and to hold out."""

from __future__ import annotations

from pathlib import Path

import datasets
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Image

from hfgen.core.errors import HfgenError, one_line
from hfgen.data.digits import DIGITS, embedded_digits

HELD_OUT_FRACTION = 0.1
HELD_OUT_MOST = 2000


def load_source(
    dataset_name: str | None,
    dataset_config_name: str | None = None,
    train_data_dir: str | None = None,
    cache_dir: str | None = None,
) -> DatasetDict:
    """All splits of a source: the embedded "digits", a repository, a local folder in a Hub layout or from
    `save_to_disk`, or `train_data_dir`, a folder of image files.

    Raises `HfgenError` when there is no such source or the Hub cannot be reached.
    """
    if train_data_dir is not None:
        if not Path(train_data_dir).is_dir():
            raise HfgenError(f"train_data_dir={train_data_dir!r} is no folder: pass a folder of image files")
        return _load("imagefolder", train_data_dir, data_dir=train_data_dir, cache_dir=cache_dir)
    if dataset_name == DIGITS:
        return embedded_digits()
    if any((Path(dataset_name) / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return _from_disk(dataset_name)
    return _load(dataset_name, dataset_name, name=dataset_config_name, cache_dir=cache_dir)


def _from_disk(folder: str) -> DatasetDict:
    try:
        found = datasets.load_from_disk(folder)
    except Exception as error:  # JSON, Arrow and `datasets` have their own for each kind of damage
        reason = f"{type(error).__name__}: {one_line(error, 200)}"
        raise HfgenError(f"dataset {folder!r} is damaged ({reason}): save it again with save_to_disk") from error
    return found if isinstance(found, DatasetDict) else DatasetDict(train=found)


def _load(builder: str, shown: str, **arguments: str | None) -> DatasetDict:
    try:
        return datasets.load_dataset(builder, **arguments)
    except Exception as error:  # the loader raises whatever its readers raise; each means: no dataset
        raise HfgenError(
            f"dataset {shown!r} cannot be loaded ({type(error).__name__}: {one_line(error, 200)}): check the name; without a network pass "
            f"--dataset_name with a local path, or --dataset_name {DIGITS} for the embedded digits"
        ) from error


def choose_splits(
    source: DatasetDict, train_split: str, validation_split: str | None, *, label_column: str | None, seed: int
) -> tuple[Dataset, Dataset, str]:
    """The training split, the held-out split, and a sentence that says where the latter comes from.

    Without a split named `validation_split` a tenth of the training images is held out, 2,000 at most, by `seed`,
    with the classes in proportion when the labels are known.

    Raises `HfgenError` for an unknown or empty split.
    """
    train = _split(source, train_split)
    if validation_split is not None and validation_split in source:
        return train, _split(source, validation_split), f"the split {validation_split!r}"
    held_out = min(int(len(train) * HELD_OUT_FRACTION), HELD_OUT_MOST)
    if held_out < 1:
        raise HfgenError(
            f"train_split={train_split!r} has {len(train)} images: too few to hold some out; use 10 or more"
        )
    stratify = label_column if isinstance(train.features.get(label_column), ClassLabel) else None
    try:
        parts = train.train_test_split(held_out, seed=seed, stratify_by_column=stratify)
    except ValueError:  # a class with a single image cannot be split in proportion
        parts = train.train_test_split(held_out, seed=seed)
    missing = "" if validation_split is None else f" (there is no split {validation_split!r})"
    return parts["train"], parts["test"], f"{held_out} images taken from {train_split!r}{missing}"


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
    if not isinstance(features[image_column], Image):
        raise HfgenError(f"image_column={image_column!r} holds no images; the columns are {columns}")
    return image_column


def find_label_column(dataset: Dataset, label_column: str | None) -> str | None:
    """`label_column`, or the first column of type `ClassLabel`, or None; `HfgenError` lists the columns there are."""
    if label_column is not None and label_column not in dataset.features:
        raise HfgenError(
            f"label_column={label_column!r} is not in the dataset; its columns are {', '.join(dataset.features)}"
        )
    if label_column is not None:
        return label_column
    return next((name for name, feature in dataset.features.items() if isinstance(feature, ClassLabel)), None)


def class_labels(dataset: Dataset, column: str | None) -> tuple[torch.Tensor | None, list[str]]:
    """The classes of all rows, int64 (N,), and the names of 0, 1, ...; None and no names unless `column` holds classes."""
    if column is None or not isinstance(dataset.features[column], ClassLabel):
        return None, []
    return torch.tensor(dataset[column][:]), dataset.features[column].names
