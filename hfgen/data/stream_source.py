"""From data flags to the shards of a stream, and to its first rows, which are held out and looked at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice

import fsspec
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, IterableDataset, IterableDatasetDict
from datasets.data_files import DataFilesList, get_data_patterns

from hfgen.configs.training import CaptionedData, DataConfig, OptimizationConfig
from hfgen.core.errors import HfgenError, one_line
from hfgen.data.clip_sources import split_name
from hfgen.data.labels import find_label_column
from hfgen.data.shuffling import Entry, Shards
from hfgen.data.sources import HELD_OUT_MOST, TRAIN, Splits, find_image_column, load_by, load_source
from hfgen.data.streaming import LANES

LOOKED_AT = 1000
MOST_SHARDS = 1024
BUILDERS = {"parquet": "parquet", "tar": "webdataset", "arrow": "arrow"}


def check_streaming(data: DataConfig, optimization: OptimizationConfig) -> None:
    """Raise `HfgenError` for flags that cannot go with `--streaming`, and for its own without it."""
    if not data.streaming:
        if data.max_validation_samples is not None:
            raise HfgenError(f"max_validation_samples={data.max_validation_samples}: only with --streaming")
        return
    if optimization.max_train_steps is None:
        raise HfgenError("--streaming: a stream has no length that --num_epochs could count: pass --max_train_steps")
    check_data(data)


def check_data(data: DataConfig) -> None:
    """Raise `HfgenError` for flags of images that need to know all of them."""
    if data.max_train_samples is not None:
        raise HfgenError(
            f"--streaming with max_train_samples={data.max_train_samples}: they are drawn from all images, whose number a stream does "
            "not tell: leave one of the two out"
        )
    if isinstance(data, CaptionedData):
        raise HfgenError(
            "--streaming: this kind of model looks at all captions or clips before it trains: leave it out"
        )
    if data.train_data_dir is None and data.dataset is None and split_name(data.dataset_name)[0]:
        raise HfgenError(f"--streaming with dataset_name={data.dataset_name!r}: clips are not streamed, leave it out")


def streamed_splits(data: DataConfig) -> tuple[Splits, Shards, str, str | None]:
    """The first rows to train on and those held out, the shards of the rest, and the columns of images and classes.

    Held out is the beginning of the split named `validation_split`, or where there is none, or it is the training split, of that.

    Raises `HfgenError` for an unknown split or column, for classes without names, and for a stream that ends too soon.
    """
    check_data(data)
    streams = open_streams(data)
    train = _part(streams, data.train_split)
    column = find_image_column(train, data.image_column)
    label_column = find_label_column(train, data.label_column)
    _check_classes(train, label_column)
    columns = [column] if label_column is None else [column, label_column]
    shards, count = _shards(train, columns), data.max_validation_samples or HELD_OUT_MOST
    entries = _entries(shards)
    named = None if data.validation_split == data.train_split else data.validation_split
    if named in streams:
        first, split = 0, str(named)
        taken = list(islice(_entries(_shards(_part(streams, split), columns)), count))
        words = f"the first {len(taken):,} images of split {split!r}"
    else:
        split, taken = data.train_split, list(islice(entries, count))
        shards, first = _without(shards, taken), len(taken)
        missing = "" if named is None else f" (there is no split {named!r})"
        words = f"the first {first:,} images of {split!r}{missing}"
    looked_at = list(islice(entries, LOOKED_AT))
    if not taken or not looked_at:
        raise HfgenError(
            f"the stream has no more than {first:,} images, all of which would be held out: lower --max_validation_samples, or leave "
            "--streaming out"
        )
    features = _features(train, columns)
    splits = Splits(
        train=_table(looked_at, features),
        validation=_table(taken, features),
        held_out=words,
        held_out_split=split,
        rows=range(len(taken)),
        train_rows=range(first, first + len(looked_at)),
    )
    return splits, shards, column, label_column


def open_streams(data: DataConfig) -> Mapping[str, IterableDataset]:
    """Each split as a stream; `HfgenError` as `load_source`."""
    given = data.dataset
    if isinstance(given, (Dataset, IterableDataset)):
        given = {TRAIN: given}
    if given is None:
        given = load_streams(data.dataset_name, data.dataset_config_name, data.train_data_dir, data.cache_dir)
    return {name: _stream(part) for name, part in given.items()}


def load_streams(
    dataset_name: str | None, dataset_config_name: str | None, train_data_dir: str | None, cache_dir: str | None
) -> Mapping[str, Dataset | IterableDataset]:
    """All splits of a source, or of a URL of storage that fsspec knows; arguments and errors as `load_source`."""
    if train_data_dir is None and dataset_name is not None and "://" in dataset_name:
        return _of_url(dataset_name, cache_dir)
    return load_source(dataset_name, dataset_config_name, train_data_dir, cache_dir, streaming=True)


def first_rows(streams: Mapping[str, Dataset | IterableDataset], counts: Mapping[str, int]) -> DatasetDict:
    """So many rows from the beginning of splits, with all their columns; fewer where there are no more."""
    parts = {name: _stream(_part(streams, name)) for name in counts}
    return DatasetDict(
        {
            name: _table(
                islice(_entries(_shards(part, list(part.features))), counts[name]), _features(part, list(part.features))
            )
            for name, part in parts.items()
        }
    )


def _of_url(place: str, cache_dir: str | None) -> IterableDatasetDict:
    """Of a file, a pattern of files or a folder of shards."""
    try:
        ending = place.rpartition(".")[2]
        if ending in BUILDERS:
            files = {TRAIN: [place]}
        else:
            base = place.rstrip("/")
            system, path = fsspec.core.url_to_fs(base)
            ending = next(name.rpartition(".")[2] for name in system.find(path) if name.rpartition(".")[2] in BUILDERS)
            files = {
                split: _shards_among([f"{base}/{name}" for name in names], f".{ending}")
                for split, names in get_data_patterns(base).items()
            }
            files = {split: names for split, names in files.items() if names}
    except (OSError, ValueError, ImportError, StopIteration) as error:  # whatever a kind of storage has for: not there
        raise HfgenError(
            f"{place!r} has no shards to read ({one_line(error, 160) or 'no .parquet, .tar or .arrow'}): check the name"
        ) from error
    return load_by(BUILDERS[ending], shown=place, data_files=files, cache_dir=cache_dir, streaming=True)


def _shards_among(patterns: list[str], ending: str) -> list[str]:
    """The files of these patterns that are shards: beside them often lie others, such as _SUCCESS or a README."""
    return [name for name in DataFilesList.from_patterns(patterns) if name.endswith(ending)]


def _stream(part: Dataset | IterableDataset) -> IterableDataset:
    """With known features and at least as many shards as lanes where the files can be divided."""
    if isinstance(part, Dataset):
        return part.with_format(None).to_iterable_dataset(num_shards=max(1, min(len(part), LANES)))
    if part.features is None:
        part = part._resolve_features()
    divisible = part.num_shards < LANES and hasattr(part, "reshard")  # older versions of datasets leave files whole
    return part.reshard() if divisible else part


def _part(streams: Mapping[str, IterableDataset], name: str) -> IterableDataset:
    if name not in streams:
        raise HfgenError(f"split {name!r} is not in the dataset: it has {', '.join(streams)}")
    return streams[name]


def _check_classes(train: IterableDataset, label_column: str | None) -> None:
    """Classes are numbered before any is read."""
    feature = None if label_column is None else train.features[label_column]
    if feature is not None and not isinstance(feature, ClassLabel):
        raise HfgenError(
            f"--streaming with label_column={label_column!r}: it does not name its classes, and a stream is not read through to find "
            "them: make it a ClassLabel, or leave --streaming out"
        )


def _features(part: IterableDataset, columns: list[str]) -> Features:
    """Of the columns, pictures undecoded."""
    found = {name: part.features[name] for name in columns}
    return Features({name: Image(decode=False) if isinstance(f, Image) else f for name, f in found.items()})


def _shards(part: IterableDataset, columns: list[str]) -> Shards:
    names = _names(part)
    rows = part.select_columns(columns)
    for name, feature in _features(part, columns).items():
        if isinstance(feature, Image):
            rows = rows.cast_column(name, feature)
    return Shards(rows=rows, count=min(part.num_shards, MOST_SHARDS), names=names if len(names) <= MOST_SHARDS else ())


def _names(part: IterableDataset) -> tuple[str, ...]:
    """The files of the shards, if they are files."""
    inner = part._ex_iterable
    while not hasattr(inner, "kwargs"):
        inner = getattr(inner, "ex_iterable", None)
        if inner is None:
            return ()
    lists = [value for value in inner.kwargs.values() if isinstance(value, list) and len(value) == part.num_shards]
    return next((tuple(values) for values in lists if all(isinstance(value, str) for value in values)), ())


def _entries(shards: Shards) -> Iterator[Entry]:
    """All rows once, in their order."""
    for shard in range(shards.count):
        for row, values in shards.read(shard):
            yield Entry(shard, row, values)


def _table(entries: Iterable[Entry], features: Features) -> Dataset:
    return Dataset.from_list([entry.values for entry in entries], features=features)


def _without(shards: Shards, taken: list[Entry]) -> Shards:
    """The shards with their first rows held out; those before the last row's have no others."""
    last = taken[-1].shard if taken else 0
    rows = {entry.shard: entry.row + 1 for entry in taken}
    return replace(shards, held_out=rows, ended=frozenset(range(last)))
