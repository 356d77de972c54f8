"""From data flags to training and held-out images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset

from hfgen.configs.training import DataConfig
from hfgen.core.memory import check_fits
from hfgen.core.resume import tensors_digest
from hfgen.data.decode import ImageReader, colour, undecoded
from hfgen.data.labels import class_counts, class_labels, class_names, find_label_column
from hfgen.data.loading import ImagesInMemory, Rows, load_images
from hfgen.data.origin import Origin, images_fingerprint, source_of
from hfgen.data.representation import Pixels, Representation
from hfgen.data.sources import choose_splits, find_image_column, load_source
from hfgen.data.subset import draw_rows, rows_text
from hfgen.data.survey import survey

MEAN_OVER = 10_000
BYTES_AT_ONCE = 1 << 23
FLOAT_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """Training and held-out images of one shape.

    Attributes:
        train, validation: rows as the source gives them.
        representation: what a model sees of them.
        held_out: in words, where the held-out images come from.
        told: what a user should know of the images before they are trained on, in sentences.
        origin: where they come from, None for those that were made in memory.
        composited: the colour behind them, by the name of its flag, where some are transparent.
        labels, train_labels: classes of the held-out and of the training images' rows, int64 (N,), or None.
        class_names: of 0, 1, ...
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

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return self.channels, self.resolution, self.resolution

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
        }

    @property
    def _rows_at_once(self) -> int:
        return max(1, BYTES_AT_ONCE // (self.channels * self.resolution**2))

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
    """Load, split and decode; call it on every process.

    `channels` and `resolution` are the model's own when its config has them; flags come first, then the model, then
    the images: RGB unless all are grey, and the median of their shorter sides. `batch_size` is how many there must be memory
    for at once.

    Raises `HfgenError` for an unknown source, split or column, for images that are too large, and for a row that cannot be read.
    """
    background = colour(data.background)
    with accelerator.main_process_first():
        found = _find_images(data, seed)
    looked = survey(found.train, found.column, seed=seed) + survey(found.validation, found.column, seed=seed)
    channels, resolution = channels or looked.channels, data.resolution or resolution or looked.side
    check_fits(
        batch_size * channels * resolution**2 * FLOAT_BYTES,
        f"a batch of {batch_size} images of {channels}x{resolution}x{resolution}",
        "lower --train_batch_size or --resolution",
        accelerator.device,
    )

    def images(dataset: Dataset, center_crop: bool) -> Rows:
        reader = ImageReader(
            dataset=dataset,
            column=found.column,
            channels=channels,
            resolution=resolution,
            center_crop=center_crop,
            seed=seed,
            background=background,
        )
        return load_images(reader, accelerator.device, show_progress=accelerator.is_local_main_process)

    return TrainingSet(
        train=images(found.train, data.center_crop),
        validation=images(found.validation, center_crop=True),
        representation=Pixels(random_flip=data.random_flip),
        channels=channels,
        resolution=resolution,
        held_out=found.held_out,
        labels=found.labels,
        train_labels=found.train_labels,
        class_names=list(found.origin.class_names),
        told=_told(found, looked.changes(channels, resolution, data.background, center_crop=data.center_crop)),
        origin=found.origin,
        composited={"background": data.background} if looked.transparent else {},
    )


@dataclass(frozen=True, kw_only=True)
class Found:
    """Training and held-out rows of a source, before they are decoded.

    Attributes:
        train, validation: the image column alone, undecoded.
        held_out, labels, train_labels: as those of a `TrainingSet`.
    """

    train: Dataset
    validation: Dataset
    column: str
    held_out: str
    labels: torch.Tensor | None
    train_labels: torch.Tensor | None
    origin: Origin


def _find_images(data: DataConfig, seed: int) -> Found:
    source = load_source(data.dataset_name, data.dataset_config_name, data.train_data_dir, data.cache_dir, data.dataset)
    label_column = find_label_column(next(iter(source.values())), data.label_column)
    splits = choose_splits(source, data.train_split, data.validation_split, label_column=label_column, seed=seed)
    column = find_image_column(splits.train, data.image_column)
    find_image_column(splits.validation, column)
    label_column = find_label_column(splits.train, data.label_column)
    names = class_names(splits.train, label_column)
    train_labels = class_labels(splits.train, label_column, names)
    train, train_rows = splits.train, None
    if data.max_train_samples is not None:
        kept = draw_rows(data.max_train_samples, len(train), train_labels, seed=seed).tolist()
        train, train_rows = train.select(kept), rows_text(splits.train_rows[row] for row in kept)
        train_labels = None if train_labels is None else train_labels[kept]
    pictures, held_out = undecoded(train, column), undecoded(splits.validation, column)
    kind, name = source_of(data)
    origin = Origin(
        source=kind,
        name=name,
        config=data.dataset_config_name,
        image_column=column,
        label_column=label_column,
        class_names=tuple(names),
        train_split=data.train_split,
        train_rows=train_rows,
        held_out_split=splits.held_out_split,
        held_out_rows=None if splits.rows is None else rows_text(splits.rows),
        background=data.background,
        rows=len(source[data.train_split]),
        fingerprint=images_fingerprint(held_out, column),
    )
    return Found(
        train=pictures,
        validation=held_out,
        column=column,
        held_out=splits.held_out,
        labels=class_labels(splits.validation, label_column, names),
        train_labels=train_labels,
        origin=origin,
    )


def _told(found: Found, changes: list[str]) -> list[str]:
    """What a user should know of the images before they are trained on."""
    if found.train_labels is None:
        return changes
    return [class_counts(found.train_labels, found.origin.class_names), *changes]
