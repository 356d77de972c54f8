"""The images that a trained model is measured on, with their labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset

from hfgen.core.errors import HfgenError
from hfgen.core.resume import tensors_digest
from hfgen.data.decode import ImageReader, channels_of, open_image, undecoded
from hfgen.data.loading import ImagesInMemory, Rows, load_images
from hfgen.data.sources import class_labels, find_image_column, find_label_column, load_source


@dataclass(frozen=True, kw_only=True)
class EvaluationImages:
    """Images of a split in their order, and the labels of the same rows.

    Attributes:
        images: uint8, (C, H, W) each.
        labels: int64 (N,), or None where the dataset has no classes.
        class_names: of labels 0, 1, ...
        fingerprint: of the dataset, as `datasets` computes it; "" for a part of a training's.
        digest: of the images as they are: of all their pixels, or where they are streamed the fingerprint.
    """

    images: Rows
    labels: torch.Tensor | None
    class_names: list[str]
    fingerprint: str = ""
    digest: str = ""


def load_evaluation_images(
    dataset_name: str,
    split: str,
    *,
    shape: tuple[int, int, int],
    device: torch.device,
    max_images: int | None = None,
    dataset_config_name: str | None = None,
    image_column: str | None = None,
    choose: Callable[[int], torch.Tensor] | None = None,
) -> EvaluationImages:
    """The first `max_images` of a split (None: all), as a model of images of `shape`, (C, H, W), takes them.

    `choose` picks others: it gets their number and returns rows, int64; no other image is decoded.

    Raises `HfgenError` for an unknown source, split or column, for an empty split, for images of another size or
    number of channels than the model's, and for a row that cannot be read.
    """
    source = load_source(dataset_name, dataset_config_name)
    if split not in source:
        raise HfgenError(f"split {split!r} is not in {dataset_name!r}: it has {', '.join(source)}")
    dataset = source[split]
    if max_images is not None:
        dataset = dataset.select(range(min(max_images, len(dataset))))
    if choose is not None:
        dataset = dataset.select(choose(len(dataset)).tolist())
    if len(dataset) == 0:
        raise HfgenError(f"split {split!r} of {dataset_name!r} has no images: name another with --split")
    column = find_image_column(dataset, image_column)
    pictures = undecoded(dataset, column)
    _check_first(pictures, column, shape)
    reader = ImageReader(
        dataset=pictures, column=column, channels=shape[0], resolution=shape[1], center_crop=True, seed=0
    )
    labels, class_names = class_labels(dataset, find_label_column(dataset, None))
    images = load_images(reader, device, show_progress=True)
    in_memory = isinstance(images, ImagesInMemory)
    return EvaluationImages(
        images=images,
        labels=labels,
        class_names=class_names,
        fingerprint=dataset._fingerprint,
        digest=tensors_digest({"images": images.images}) if in_memory else dataset._fingerprint,
    )


def shown_dataset(name: str) -> str:
    """A repository's name, or of a local folder the last part of its path."""
    return Path(name).resolve().name if Path(name).exists() else name


def _check_first(pictures: Dataset, column: str, shape: tuple[int, int, int]) -> None:
    image = open_image(pictures[0][column], f"0 of image column {column!r}")
    found = (channels_of(image), image.height, image.width)
    if found == shape and shape[1] != shape[2]:
        raise HfgenError(
            f"the images are {'x'.join(map(str, found))} (channels x height x width), and hfgen measures on square ones alone: "
            "sample this model instead"
        )
    if found != shape:
        raise HfgenError(
            f"the images are {'x'.join(map(str, found))} (channels x height x width), the model's "
            f"{'x'.join(map(str, shape))}: evaluate on the images that it was made for"
        )
