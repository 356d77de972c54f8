"""From data flags to training and held-out images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset

from hfgen.configs.training import ClipData, DataConfig
from hfgen.core.errors import HfgenError
from hfgen.core.memory import check_fits
from hfgen.core.resume import tensors_digest
from hfgen.data.clips import ClipReader, clip_survey, common_length, find_clip_column
from hfgen.data.companions import CompanionRules, Companions, Read, companion_rules
from hfgen.data.decode import ImageReader, colour, undecoded
from hfgen.data.labels import class_counts, class_labels, class_names, find_label_column
from hfgen.data.loading import ImagesInMemory, Rows, load_images
from hfgen.data.moving import MOVING_COLUMN, MOVING_TOLD
from hfgen.data.origin import Origin, images_fingerprint, source_of
from hfgen.data.representation import Pixels, Representation
from hfgen.data.shuffling import Shards
from hfgen.data.sources import Splits, choose_splits, find_image_column, load_source
from hfgen.data.stream_source import streamed_splits
from hfgen.data.streaming import ImageStream
from hfgen.data.subset import draw_rows, rows_text
from hfgen.data.survey import Survey, survey

MEAN_OVER = 10_000
BYTES_AT_ONCE = 1 << 23
FLOAT_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """Training and held-out images of one shape, or clips of one length.

    Attributes:
        train, validation: rows as the source gives them.
        representation: what a model sees of them.
        held_out: in words, where the held-out images come from.
        told: what a user should know of the images before they are trained on, in sentences.
        origin: where they come from, None for those that were made in memory.
        composited: the colour behind them, by the name of its flag, where some are transparent.
        labels, train_labels: classes of the held-out and of the training images' rows, int64 (N,), or None.
        class_names: of 0, 1, ...
        frames: of a clip, None of images.
        stream: what is trained on in place of `train`, which then holds its first images.
        companions, train_companions: what belongs to the held-out and to the training images beside their classes.
    """

    train: Rows
    validation: Rows
    representation: Representation
    channels: int
    resolution: int
    held_out: str
    labels: torch.Tensor | None
    train_labels: torch.Tensor | None
    class_names: list[str]
    told: list[str] = field(default_factory=list)
    origin: Origin | None = None
    composited: Mapping[str, str] = field(default_factory=dict)
    companions: Companions = field(default_factory=Companions)
    train_companions: Companions = field(default_factory=Companions)
    frames: int | None = None
    stream: ImageStream | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of an image, (F, C, H, W) of a clip."""
        image = self.channels, self.resolution, self.resolution
        return image if self.frames is None else (self.frames, *image)

    def pixel_mean(self) -> torch.Tensor:
        """Mean of the training images, (C, H, W) in [-1, 1], on their device; over the first 10,000 of them."""
        rows = torch.arange(min(MEAN_OVER, len(self.train))).split(self._rows_at_once)
        total = sum(images.sum(0, dtype=torch.float64) for images in self.train.batches(rows))
        return (total / sum(map(len, rows)) / 127.5 - 1).float()

    def identity(self) -> dict[str, Any]:
        """What a training depends on of its images and labels, as JSON values.

        Of images in memory that is a sha256, in hexadecimal; of others the fingerprint of their dataset, which `datasets` keeps.
        """
        return {
            "train_images": len(self.train),
            "training_pixels": self._digest(self.train, self.train_labels),
            "held_out_pixels": self._digest(self.validation, self.labels),
            **self.composited,
            **({} if self.stream is None else self.stream.identity),
            **_companions_identity(self.train_companions),
        }

    @property
    def amount(self) -> str:
        """How many training images there are, in words."""
        return f"{len(self.train)} training images" if self.stream is None else "a stream of training images"

    def told_classes(self) -> list[str]:
        """The names of the classes, for a network that is told them; `HfgenError` where not all images have one."""
        if self.train_labels is None or self.labels is None:
            raise HfgenError(
                "class_conditional needs a column of classes in the training and the held-out split: name it with --label_column"
            )
        for split, labels in (("training", self.train_labels), ("held-out", self.labels)):
            without = int((labels < 0).sum())
            if without:
                raise HfgenError(
                    f"class_conditional: {without:,} of the {split} images have no class (-1): leave them out, or name another split"
                )
        return list(self.class_names)

    @property
    def _rows_at_once(self) -> int:
        return max(1, BYTES_AT_ONCE // math.prod(self.shape))

    def _digest(self, rows: Rows, labels: torch.Tensor | None) -> dict[str, str]:
        if not isinstance(rows, ImagesInMemory):
            return {"kind": "fingerprint", "digest": rows.reader.dataset._fingerprint}
        tensors = {"images": rows.images} | ({} if labels is None else {"labels": labels})
        return {"kind": "sha256", "digest": tensors_digest(tensors)}


def load_training_set(
    data: DataConfig,
    *,
    channels: int | None,
    resolution: int | None,
    seed: int,
    accelerator: Accelerator,
    batch_size: int = 1,
) -> TrainingSet:
    """Load, split and decode; call it on every process. Rows of `ClipData` are clips.

    `channels` and `resolution` are the model's own when its config has them; flags come first, then the model, then
    the images: RGB unless all are grey, and the median of their shorter sides. `batch_size` is how many there must be memory
    for at once.

    Raises `HfgenError` for an unknown source, split or column, for images that are too large, and for a row that cannot be read.
    """
    background = colour(data.background)
    with accelerator.main_process_first():
        found = _find_images(data, seed)
    frames = _frames(data, found)
    looked = _looked_at(found, seed, clips=frames is not None)
    channels, resolution = channels or looked.channels, data.resolution or resolution or looked.side
    check_fits(
        batch_size * (frames or 1) * channels * resolution**2 * FLOAT_BYTES,
        f"a batch of {batch_size} images of {channels}x{resolution}x{resolution}",
        "lower --train_batch_size or --resolution",
        accelerator.device,
    )

    def reader(center_crop: bool, dataset: Dataset, column: str) -> ImageReader:
        return ImageReader(
            dataset=dataset,
            column=column,
            channels=channels,
            resolution=resolution,
            center_crop=center_crop,
            seed=seed,
            background=background,
        )

    def images(center_crop: bool, dataset: Dataset, column: str) -> Rows:
        pictures = reader(center_crop, dataset, column)
        clips = None if frames is None else ClipReader(images=pictures, frames=frames)
        return load_images(clips or pictures, accelerator.device, show_progress=accelerator.is_local_main_process)

    stream = found.shards and ImageStream(
        shards=found.shards,
        reader=reader(data.center_crop, found.train, found.column),
        image_column=found.column,
        label_column=found.origin.label_column,
        buffer_size=data.shuffle_buffer_size,
        seed=seed,
        device=accelerator.device,
        epoch_steps=data.epoch_steps,
    )
    train = images(data.center_crop, found.train, found.column)
    validation = images(True, found.validation, found.column)
    return TrainingSet(
        train=train,
        validation=validation,
        representation=Pixels(random_flip=data.random_flip),
        channels=channels,
        resolution=resolution,
        held_out=found.held_out,
        labels=found.labels,
        train_labels=found.train_labels,
        class_names=list(found.origin.class_names),
        told=_told(found, looked.changes(channels, resolution, data.background, center_crop=data.center_crop))
        + ([] if stream is None else stream.told),
        origin=found.origin,
        composited={"background": data.background} if looked.transparent else {},
        companions=found.companions(held_out=True, images=validation, read=partial(images, True)),
        train_companions=found.companions(held_out=False, images=train, read=partial(images, data.center_crop)),
        frames=frames,
        stream=stream,
    )


@dataclass(frozen=True, kw_only=True)
class Found:
    """Training and held-out rows of a source, before they are decoded.

    Attributes:
        train, validation: the image column alone, undecoded.
        held_out, labels, train_labels: as those of a `TrainingSet`.
        rows: the held-out and the training rows with all their columns.
        rules: what belongs to the images beside their classes.
        shards: of a stream, whose first rows are `train`.
    """

    train: Dataset
    validation: Dataset
    column: str
    held_out: str
    labels: torch.Tensor | None
    train_labels: torch.Tensor | None
    origin: Origin
    rows: tuple[Dataset, Dataset]
    rules: CompanionRules
    shards: Shards | None = None

    def companions(self, *, held_out: bool, images: Rows, read: Read) -> Companions:
        """Those of the held-out or of the training images; arguments and errors as `CompanionRules.load`."""
        dataset, labels = (self.rows[0], self.labels) if held_out else (self.rows[1], self.train_labels)
        return self.rules.load(dataset, labels, self.origin.class_names, images, read)


def _find_images(data: DataConfig, seed: int) -> Found:
    if data.streaming:
        return _find_stream(data)
    source = load_source(data.dataset_name, data.dataset_config_name, data.train_data_dir, data.cache_dir, data.dataset)
    label_column = find_label_column(next(iter(source.values())), data.label_column)
    splits = choose_splits(source, data.train_split, data.validation_split, label_column=label_column, seed=seed)
    find_column = find_clip_column if isinstance(data, ClipData) else find_image_column
    column = find_column(splits.train, data.image_column)
    find_column(splits.validation, column)
    label_column = find_label_column(splits.train, data.label_column)
    rules = companion_rules(data, splits.train, label_column)
    train, train_rows = splits.train, None
    if data.max_train_samples is not None:
        labels = class_labels(train, label_column, class_names(train, label_column))
        kept = draw_rows(data.max_train_samples, len(train), labels, seed=seed).tolist()
        train, train_rows = train.select(kept), rows_text(splits.train_rows[row] for row in kept)
    return _found(
        data,
        splits,
        train,
        column=column,
        label_column=label_column,
        rules=rules,
        train_rows=train_rows,
        held_out_rows=None if splits.rows is None else rows_text(splits.rows),
        rows=len(source[data.train_split]),
    )


def _find_stream(data: DataConfig) -> Found:
    splits, shards, column, label_column = streamed_splits(data)
    return _found(
        data,
        splits,
        splits.train,
        column=column,
        label_column=label_column,
        rules=CompanionRules(),
        shards=shards,
        train_rows=rows_text(splits.train_rows),
        held_out_rows=rows_text(splits.rows or ()),
        rows=max(splits.train_rows[-1] + 1, len(splits.validation)),
    )


def _found(
    data: DataConfig,
    splits: Splits,
    train: Dataset,
    *,
    column: str,
    label_column: str | None,
    rules: CompanionRules,
    shards: Shards | None = None,
    **rows: Any,
) -> Found:
    """`rows` are the values of the `Origin` that say which rows were taken."""
    names = class_names(splits.train, label_column)
    held_out = undecoded(splits.validation, column)
    kind, name = source_of(data)
    origin = Origin(
        source=kind,
        name=name,
        config=data.dataset_config_name,
        image_column=column,
        label_column=label_column,
        class_names=tuple(names),
        train_split=data.train_split,
        held_out_split=splits.held_out_split,
        background=data.background,
        fingerprint=images_fingerprint(held_out, column),
        streamed=shards is not None,
        **rows,
        **rules.origin(),
    )
    return Found(
        train=undecoded(train, column),
        validation=held_out,
        column=column,
        held_out=splits.held_out,
        labels=class_labels(splits.validation, label_column, names),
        train_labels=class_labels(train, label_column, names),
        origin=origin,
        rows=(splits.validation, train),
        rules=rules,
        shards=shards,
    )


def _looked_at(found: Found, seed: int, *, clips: bool) -> Survey:
    """What the images are like, or the frames of the clips."""
    look = clip_survey if clips else survey
    return look(found.train, found.column, seed=seed) + look(found.validation, found.column, seed=seed)


def _frames(data: DataConfig, found: Found) -> int | None:
    """Of each clip, None of images; `HfgenError` for clips of unequal length."""
    if not isinstance(data, ClipData):
        return None
    taken = common_length(found.train, found.column, data.num_frames)
    return common_length(found.validation, found.column, taken)


def _companions_identity(companions: Companions) -> dict[str, str]:
    captions, conditions = companions.captions, companions.conditions
    return ({} if captions is None else {"captions": tensors_digest({}, *captions)}) | (
        {} if conditions is None else {"conditions": tensors_digest({"conditions": conditions.images})}
    )


def _told(found: Found, changes: list[str]) -> list[str]:
    """What a user should know of the images before they are trained on."""
    if found.column == MOVING_COLUMN:
        changes = [MOVING_TOLD]
    if found.train_labels is None:
        return changes
    of = "" if found.shards is None else f" of the first {len(found.train):,} images"
    return [f"{class_counts(found.train_labels, found.origin.class_names)}{of}", *changes]
