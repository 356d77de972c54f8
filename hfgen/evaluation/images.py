"""The images that a trained model is measured on, with their labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from datasets import Dataset

from hfgen.data.decode import ImageReader, channels_of, open_image, undecoded
from hfgen.data.images import ImagesInMemory, ImagesStreamed, load_images
from hfgen.data.sources import class_labels, find_image_column, find_label_column, load_source
from hfgen.errors import HfgenError


@dataclass(frozen=True)
class EvaluationImages:
    """Images of a split in their order, and the labels of the same rows.

    Attributes:
        images: uint8, (C, H, W) each.
        labels: int64 (N,), or None where the dataset has no classes.
        class_names: of labels 0, 1, ...
        fingerprint: of the dataset, as `datasets` computes it.
    """

    images: ImagesInMemory | ImagesStreamed
    labels: torch.Tensor | None
    class_names: list[str]
    fingerprint: str


def load_evaluation_images(
    dataset_name: str,
    split: str,
    channels: int,
    resolution: int,
    device: torch.device,
    max_images: int | None = None,
    dataset_config_name: str | None = None,
    image_column: str | None = None,
    choose: Callable[[int], torch.Tensor] | None = None,
) -> EvaluationImages:
    """The first `max_images` of a split (None: all), as a model of `channels` and `resolution` takes them.

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
    _check_first(pictures, column, channels, resolution)
    reader = ImageReader(pictures, column, channels, resolution, True, 0)
    labels, class_names = class_labels(dataset, find_label_column(dataset, None))
    return EvaluationImages(load_images(reader, device, True), labels, class_names, dataset._fingerprint)


def _check_first(pictures: Dataset, column: str, channels: int, resolution: int):
    image = open_image(pictures[0][column], f"0 of image column {column!r}")
    found = (channels_of(image), image.height, image.width)
    if found != (channels, resolution, resolution):
        raise HfgenError(
            f"the images are {'x'.join(map(str, found))} (channels x height x width), the model's "
            f"{channels}x{resolution}x{resolution}: evaluate on the images that it was made for"
        )
