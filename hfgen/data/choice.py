"""Which images a model is measured on: those that are named, or those that its training held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict, IterableDataset

from hfgen.configs.evaluation import MeasuredData
from hfgen.core.errors import HfgenError
from hfgen.core.processes import tell
from hfgen.data.companions import CompanionRules, rules_of_origin
from hfgen.data.decode import undecoded
from hfgen.data.digits import DIGITS
from hfgen.data.evaluation_images import Selection, select, shown_dataset
from hfgen.data.origin import GIVEN, LOCAL, Origin, images_fingerprint, kept_place, origin_of_json
from hfgen.data.sources import TEST, TRAIN, load_source
from hfgen.data.stream_source import first_rows, load_streams
from hfgen.data.subset import rows_of_text
from hfgen.results import TRAINING_FILE, TrainingRecord

NAME_THEM = "name those to measure on with --dataset_name or --train_data_dir"
WHITE, FROM_PYTHON = "white", "a dataset from Python"
Folders = Mapping[str, Path | None]


@dataclass(frozen=True, kw_only=True)
class ImageChoice:
    """Where images come from, and which of them are measured on.

    Attributes:
        name, split: of the dataset and of those measured on, as results tell them.
        held_out: rows to measure on.
        asked: the flags.
        origin: of the training, where these are its images.
        told: what a user should know of them where they were not named, in a line.
    """

    name: str
    split: str
    held_out: Selection
    source: DatasetDict
    asked: MeasuredData
    origin: Origin | None
    told: str | None = None

    def tell(self) -> None:
        """Say which images they are on stderr, unless they were named."""
        if self.told is not None:
            tell(self.told)

    def training(self, train_split: str | None) -> Selection:
        """All rows of a split; None: the rows that the model was trained on, where these are its images, else of "train"."""
        if train_split is None and self.origin is not None:
            chosen = _training_rows(self.source, self.origin, self.asked)
        else:
            chosen = _of_split(self.source, train_split or TRAIN, self.name, self.asked, self.origin)
        return replace(chosen, rules=CompanionRules())  # nobody asks what belongs to these


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What a training tells of its images.

    Attributes:
        dataset: the name of a source that is no local one; all that older trainings tell.
        place: arguments of `load_source` for a local source, if it is still there.
    """

    dataset: str | None
    origin: Origin | None
    place: dict[str, str]

    @property
    def held_out(self) -> tuple[str | None, ...]:
        """The same for the same images."""
        origin = self.origin
        if origin is None:
            return (self.dataset, None, TEST, None, None)
        content = origin.fingerprint if origin.source in (LOCAL, GIVEN) else None
        return (origin.name, origin.config, origin.held_out_split, origin.held_out_rows, content)


def choose_images(asked: MeasuredData, models: Folders) -> ImageChoice:
    """The images that flags name; without a source those that the trainings of `models`, folders by name, held out.

    Of a named source without a split "test" the rows that were held out are taken, if it is the training's.

    Raises `HfgenError` for a source or split that there is not, for none where nothing tells of a training's, for trainings that
    held out different images, and for images that are not those of the training any more.
    """
    named = next((x for x in (asked.dataset, asked.train_data_dir, asked.dataset_name) if x is not None), None)
    if asked.dataset_name is not None and asked.train_data_dir is not None:
        raise HfgenError(
            f"dataset_name={asked.dataset_name!r} and train_data_dir={asked.train_data_dir!r} name two sources: pass one of them"
        )
    if named is None:
        _check_alone(asked)
        return _recorded_images(asked, models)
    source = load_source(
        asked.dataset_name, asked.dataset_config_name, asked.train_data_dir, asked.cache_dir, asked.dataset
    )
    name = shown_dataset(named) if isinstance(named, str) else FROM_PYTHON
    origin = _origin_of(source, asked, models)
    if asked.split is None and TEST not in source:
        if origin is not None:
            return _held_out_images(source, origin, asked, name)
        if isinstance(asked.dataset, Dataset):
            return _choice(source, TRAIN, name, asked, None)
    return _choice(source, asked.split or TEST, name, asked, origin)


def _check_alone(asked: MeasuredData) -> None:
    """Raise `HfgenError` for flags that say how named images are to be read, where none are named."""
    names = ("dataset_config_name", "image_column", "label_column", "resolution")
    given = [f"--{name}" for name in names if getattr(asked, name) is not None]
    if given:
        raise HfgenError(f"{', '.join(given)}: only with --dataset_name or --train_data_dir")


def _origin_of(source: DatasetDict, asked: MeasuredData, models: Folders) -> Origin | None:
    """What the trainings of all models tell, if that is of this source and no flag says otherwise."""
    if (asked.image_column, asked.label_column, asked.resolution) != (None, None, None):
        return None
    found = _records(models)
    if not found or not _agree(found):
        return None
    origin = _common(found).origin
    return origin if origin is not None and _is_of(source, origin) else None


def _recorded_images(asked: MeasuredData, models: Folders) -> ImageChoice:
    """Those that the trainings of all models tell of."""
    whose, found = ", ".join(models), _records(models)
    if not found:
        raise HfgenError(f"{whose}: nothing tells on which images it was trained: {NAME_THEM}")
    if not _agree(found):
        raise HfgenError(f"{whose}: their trainings held out different images: {NAME_THEM}, and --split")
    recorded = _common(found)
    origin = recorded.origin
    if origin is None:
        return _older_images(asked, recorded.dataset, whose)
    source, name = _source_of(origin, recorded.place, asked, whose), origin.name or FROM_PYTHON
    if not _is_of(source, origin):
        raise HfgenError(
            f"{whose}: the images of {name} are not those of the training any more: {NAME_THEM}, and --split"
        )
    if asked.split is not None:
        return _choice(source, asked.split, name, asked, origin)
    return _held_out_images(source, origin, asked, name)


def _older_images(asked: MeasuredData, dataset: str | None, whose: str) -> ImageChoice:
    """Of a training of before it told its images: the split "test" of its dataset."""
    if dataset is None:
        raise HfgenError(f"{whose}: nothing tells where the local dataset lies that it was trained on: {NAME_THEM}")
    source = load_source(dataset, asked.dataset_config_name, cache_dir=asked.cache_dir)
    choice = _choice(source, asked.split or TEST, dataset, asked, None)
    return replace(choice, told=f"images of the training's dataset: split {choice.split!r} of {choice.name}")


def _source_of(origin: Origin, place: dict[str, str], asked: MeasuredData, whose: str) -> DatasetDict:
    if origin.source == GIVEN:
        raise HfgenError(f"{whose}: trained on a dataset from Python: pass it as dataset=..., or {NAME_THEM}")
    if origin.source == LOCAL and not place:
        raise HfgenError(
            f"{whose}: trained on the local dataset {origin.name!r}, which is not where it was: {NAME_THEM}"
        )
    named = {
        "dataset_name": None,
        "train_data_dir": None,
        "dataset_config_name": origin.config,
        "cache_dir": asked.cache_dir,
    }
    named |= place if origin.source == LOCAL else {"dataset_name": origin.name}
    return _beginning(load_streams(**named), origin) if origin.streamed else load_source(**named)


def _beginning(streams: Mapping[str, Dataset | IterableDataset], origin: Origin) -> DatasetDict:
    """As much of each split of a stream as its training has looked at: no more is fetched."""
    wanted = {origin.train_split: origin.train_rows, origin.held_out_split: origin.held_out_rows}
    if origin.train_split == origin.held_out_split:
        wanted[origin.train_split] = f"{origin.train_rows} {origin.held_out_rows}"
    return first_rows(streams, {split: max(rows_of_text(rows or "0")) + 1 for split, rows in wanted.items()})


def _held_out_images(source: DatasetDict, origin: Origin, asked: MeasuredData, name: str) -> ImageChoice:
    rows = source[origin.held_out_split]
    if origin.held_out_rows is not None:
        rows = rows.select(rows_of_text(origin.held_out_rows))
    return ImageChoice(
        name=name,
        split=origin.in_words,
        held_out=_own_rows(rows, f"split {origin.held_out_split!r} of {name!r}", origin, asked),
        source=source,
        asked=asked,
        origin=origin,
        told=f"images that the training held out: {len(rows):,} of split {origin.held_out_split!r} of {name}",
    )


def _training_rows(source: DatasetDict, origin: Origin, asked: MeasuredData) -> Selection:
    rows = source[origin.train_split]
    if origin.train_rows is not None:
        rows = rows.select(rows_of_text(origin.train_rows))
    elif origin.held_out_rows is not None:
        rows = rows.select(np.setdiff1d(np.arange(len(rows)), rows_of_text(origin.held_out_rows)))
    return _own_rows(rows, f"split {origin.train_split!r}", origin, asked)


def _own_rows(rows: Dataset, name: str, origin: Origin, asked: MeasuredData) -> Selection:
    """Rows as the training took them."""
    return Selection(
        dataset=rows,
        name=name,
        column=origin.image_column,
        label_column=origin.label_column,
        class_names=origin.class_names,
        background=asked.background or origin.background,
        resized=True,
        rules=rules_of_origin(origin),
    )


def _choice(source: DatasetDict, split: str, name: str, asked: MeasuredData, origin: Origin | None) -> ImageChoice:
    held_out = _of_split(source, split, name, asked, origin)
    return ImageChoice(name=name, split=split, held_out=held_out, source=source, asked=asked, origin=origin)


def _of_split(source: DatasetDict, split: str, name: str, asked: MeasuredData, origin: Origin | None) -> Selection:
    if split not in source:
        raise HfgenError(f"split {split!r} is not in {name!r}: it has {', '.join(source)}; name one with --split")
    words = f"split {split!r} of {name!r}"
    if origin is not None:
        return _own_rows(source[split], words, origin, asked)
    return select(
        source[split],
        words,
        image_column=asked.image_column,
        label_column=asked.label_column,
        background=asked.background or WHITE,
        resolution=asked.resolution,
    )


def _is_of(source: DatasetDict, origin: Origin) -> bool:
    """Whether a source is what a training had."""
    if not {origin.train_split, origin.held_out_split} <= source.keys():
        return False
    rows = source[origin.held_out_split]
    counted = origin.streamed or len(source[origin.train_split]) == origin.rows
    if not counted or origin.image_column not in rows.features:
        return False
    if origin.held_out_rows is not None:
        chosen = rows_of_text(origin.held_out_rows)
        if max(chosen) >= len(rows):
            return False
        rows = rows.select(chosen)
    # the digits are encoded anew, by whatever Pillow there is
    return origin.source == DIGITS or (
        images_fingerprint(undecoded(rows, origin.image_column), origin.image_column) == origin.fingerprint
    )


def _records(models: Folders) -> list[Recorded]:
    """What the trainings of those models tell that have a training.json."""
    return [
        _recorded_in(folder) for folder in models.values() if folder is not None and (folder / TRAINING_FILE).is_file()
    ]


def _agree(found: Sequence[Recorded]) -> bool:
    """Whether the same images were held out."""
    return len({each.held_out for each in found}) == 1


def _common(found: Sequence[Recorded]) -> Recorded:
    """What is told of those that agree: of different training rows that they are among the rest."""
    first = max(found, key=lambda each: (bool(each.place), each.origin is not None))
    if first.origin is None or len({each.origin.train_rows for each in found if each.origin is not None}) == 1:
        return first
    return replace(first, origin=replace(first.origin, train_rows=None))


def _recorded_in(folder: Path) -> Recorded:
    path = folder / TRAINING_FILE
    record = TrainingRecord.load(path)
    origin = None if record.data is None else origin_of_json(record.data, str(path))
    return Recorded(dataset=record.dataset, origin=origin, place=kept_place(folder))
