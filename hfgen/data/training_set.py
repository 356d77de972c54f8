"""From data flags to training and held-out images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset, DatasetDict

from hfgen.configs.training import DataConfig
from hfgen.core.memory import check_fits
from hfgen.core.resume import tensors_digest
from hfgen.data.decode import ImageReader, channels_of, open_image, undecoded
from hfgen.data.loading import ImagesInMemory, Rows, load_images
from hfgen.data.representation import Pixels, Representation
from hfgen.data.sources import choose_splits, class_labels, find_image_column, find_label_column, load_source

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
    the first image (its mode: grey or RGB; its shorter side). `batch_size` is how many there must be memory for at once.

    Raises `HfgenError` for an unknown source, split or column, for images that are too large, and for a row that cannot be read.
    """
    with accelerator.main_process_first():
        source = load_source(data.dataset_name, data.dataset_config_name, data.train_data_dir, data.cache_dir)
        train, validation, held_out = _splits(source, data, seed)
    column = find_image_column(train, data.image_column)
    find_image_column(validation, column)
    label_column = find_label_column(train, data.label_column)
    labels, _ = class_labels(validation, label_column if label_column in validation.features else None)
    train_labels, class_names = class_labels(train, label_column)
    train, validation = undecoded(train, column), undecoded(validation, column)
    first = open_image(train[0][column], f"0 of image column {column!r}")
    channels = channels or channels_of(first)
    resolution = data.resolution or resolution or min(first.size)
    check_fits(
        batch_size * channels * resolution**2 * FLOAT_BYTES,
        f"a batch of {batch_size} images of {channels}x{resolution}x{resolution}",
        "lower --train_batch_size or --resolution",
        accelerator.device,
    )

    def images(dataset: Dataset, center_crop: bool) -> Rows:
        reader = ImageReader(
            dataset=dataset,
            column=column,
            channels=channels,
            resolution=resolution,
            center_crop=center_crop,
            seed=seed,
        )
        return load_images(reader, accelerator.device, show_progress=accelerator.is_local_main_process)

    return TrainingSet(
        train=images(train, data.center_crop),
        validation=images(validation, center_crop=True),
        representation=Pixels(random_flip=data.random_flip),
        channels=channels,
        resolution=resolution,
        held_out=held_out,
        labels=labels,
        train_labels=train_labels,
        class_names=class_names,
    )


def _splits(source: DatasetDict, data: DataConfig, seed: int) -> tuple[Dataset, Dataset, str]:
    label_column = find_label_column(next(iter(source.values())), data.label_column)
    train, validation, held_out = choose_splits(
        source, data.train_split, data.validation_split, label_column=label_column, seed=seed
    )
    if data.max_train_samples is not None:
        train = train.select(range(min(data.max_train_samples, len(train))))
    return train, validation, held_out
