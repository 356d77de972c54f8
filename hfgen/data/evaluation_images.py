"""The images that a trained model is measured on, with their labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from datasets import Dataset

from hfgen.core.errors import HfgenError
from hfgen.core.processes import is_first, tell
from hfgen.core.resume import tensors_digest
from hfgen.data.clip_sources import split_name
from hfgen.data.clips import ClipReader, find_clip_column, holds_pictures
from hfgen.data.companions import CompanionRules, Companions
from hfgen.data.decode import ImageReader, colour, undecoded
from hfgen.data.labels import class_labels, class_names, find_label_column
from hfgen.data.loading import ImagesInMemory, Rows, load_images
from hfgen.data.sources import find_image_column, load_source
from hfgen.data.subset import draw_rows
from hfgen.data.survey import Survey, survey

CHECKED = 2000
Choose = Callable[[int], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class EvaluationImages:
    """Images of a split in their order, and the labels of the same rows.

    Attributes:
        images: uint8, (C, H, W) each.
        labels: int64 (N,), or None where the dataset has no classes.
        class_names: of labels 0, 1, ...
        fingerprint: of the dataset, as `datasets` computes it; "" for a part of a training's.
        digest: of the images as they are, of all their pixels or where they are streamed the fingerprint, of their classes and of
            what belongs to them.
        companions: what belongs to them beside their classes.
    """

    images: Rows
    labels: torch.Tensor | None
    class_names: list[str]
    fingerprint: str = ""
    digest: str = ""
    companions: Companions = field(default_factory=Companions)

    def some(self, count: int) -> torch.Tensor:
        """`count` rows, int64, to show for all: drawn, with the classes in proportion; all if there are no more."""
        return draw_rows(count, len(self.images), self.labels, seed=0)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Rows of a split that are to be images of a model.

    Attributes:
        dataset: the rows, with all columns.
        name: of the split and its dataset, for messages.
        column, label_column: of the images and, if there are any, of the classes.
        class_names: of labels 0, 1, ...
        background: of what is transparent.
        resized: whether images of another kind than the model's are made its own, as in a training.
        resolution: that they are to be resized to, which must be the model's; None: only if they are `resized`.
        rules: what belongs to them beside their classes.
    """

    dataset: Dataset
    name: str
    column: str
    label_column: str | None
    class_names: Sequence[str]
    background: str
    resized: bool = False
    resolution: int | None = None
    rules: CompanionRules = field(default_factory=CompanionRules)

    def load(
        self,
        shape: tuple[int, ...],
        device: torch.device,
        *,
        max_images: int | None = None,
        choose: Choose | None = None,
        seed: int = 0,
    ) -> EvaluationImages:
        """As a model of images of `shape`, (C, H, W), or clips, (F, C, H, W), takes them: all, or `max_images` drawn by `seed`, with the classes in proportion.

        `choose` picks others of these: it gets their number and returns rows, int64; no other image is decoded.

        Raises `HfgenError` for no rows, for images of another size or number of channels than the model's unless they are to be
        resized, and for a row that cannot be read. Frames of clips are resized always.
        """
        dataset, labels = self.dataset, class_labels(self.dataset, self.label_column, self.class_names)
        if max_images is not None:
            dataset, labels = _chosen(dataset, labels, draw_rows(max_images, len(dataset), labels, seed=seed))
        if choose is not None:
            dataset, labels = _chosen(dataset, labels, choose(len(dataset)))
        if len(dataset) == 0:
            raise HfgenError(f"{self.name} has no images: name another with --split")
        pictures = undecoded(dataset, self.column)
        if len(shape) == 3:
            find_image_column(dataset, self.column)
        changes = [] if self.resized or len(shape) == 4 else self._changes(pictures, shape)

        def read(rows: Dataset, column: str) -> Rows:
            reader = ImageReader(
                dataset=rows,
                column=column,
                channels=shape[-3],
                resolution=shape[-1],
                center_crop=True,
                seed=0,
                background=colour(self.background),
            )
            clips = ClipReader(images=reader, frames=shape[0]) if len(shape) == 4 else None
            return load_images(clips or reader, device, show_progress=is_first())

        images = read(pictures, self.column)
        for line in changes:
            tell(line)
        companions = self.rules.load(dataset, labels, self.class_names, images, read)
        return EvaluationImages(
            images=images,
            labels=labels,
            class_names=list(self.class_names),
            fingerprint=dataset._fingerprint,
            digest=self._digest(images, labels, companions, dataset._fingerprint),
            companions=companions,
        )

    def _digest(self, images: Rows, labels: torch.Tensor | None, companions: Companions, fingerprint: str) -> str:
        in_memory = isinstance(images, ImagesInMemory)
        conditions = companions.conditions
        tensors = {
            "images": images.images if in_memory else None,
            "labels": labels,
            "conditions": None if conditions is None else conditions.images,
        }
        known = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        words = ("" if in_memory else fingerprint, *self.class_names, *(companions.captions or ()))
        return tensors_digest(known, *words)

    def _changes(self, pictures: Dataset, shape: tuple[int, ...]) -> list[str]:
        """What is done to the images, in sentences; `HfgenError` where that was not asked for."""
        if self.resolution is not None and shape[1:] != (self.resolution, self.resolution):
            raise HfgenError(
                f"resolution={self.resolution}: the model's images are {'x'.join(map(str, shape))}, pass their size"
            )
        seen = survey(pictures, self.column, most=CHECKED)
        if self.resolution is None:
            _check_shape(seen, shape)
        return seen.changes(shape[0], shape[1], self.background, center_crop=True)


def load_evaluation_images(
    dataset_name: str,
    split: str,
    *,
    shape: tuple[int, ...],
    device: torch.device,
    max_images: int | None = None,
    dataset_config_name: str | None = None,
    image_column: str | None = None,
    choose: Choose | None = None,
    seed: int = 0,
) -> EvaluationImages:
    """The images of a split of a source; arguments and errors as those of `Selection.load` and `load_source`."""
    source = load_source(dataset_name, dataset_config_name)
    if split not in source:
        raise HfgenError(f"split {split!r} is not in {dataset_name!r}: it has {', '.join(source)}")
    selection = select(source[split], f"split {split!r} of {dataset_name!r}", image_column=image_column)
    return selection.load(shape, device, max_images=max_images, choose=choose, seed=seed)


def select(
    dataset: Dataset,
    name: str,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    background: str = "white",
    resolution: int | None = None,
) -> Selection:
    """All rows of a dataset; `HfgenError` for a column that there is not, and where there are no images."""
    if len(dataset) == 0:
        raise HfgenError(f"{name} has no images: name another with --split")
    label_column = find_label_column(dataset, label_column)
    return Selection(
        dataset=dataset,
        name=name,
        column=find_image_column(dataset, image_column)
        if holds_pictures(dataset)
        else find_clip_column(dataset, image_column),
        label_column=label_column,
        class_names=class_names(dataset, label_column),
        background=background,
        resolution=resolution,
    )


def shown_dataset(name: str) -> str:
    """A repository's name, or of a local folder the last part of its path; what stands before the name of clips stays."""
    prefix, rest = split_name(name)
    return f"{prefix}{Path(rest).resolve().name}" if Path(rest).exists() else name


def _chosen(dataset: Dataset, labels: torch.Tensor | None, rows: torch.Tensor) -> tuple[Dataset, torch.Tensor | None]:
    return dataset.select(rows.tolist()), None if labels is None else labels[rows]


def _check_shape(seen: Survey, shape: tuple[int, ...]) -> None:
    """Raise `HfgenError` unless all images have the shape of the model's."""
    wanted = (shape[2], shape[1])
    size = next((size for size in seen.sizes if size != wanted), wanted)
    found = (seen.channels, size[1], size[0])
    if found == shape and shape[1] != shape[2]:
        raise HfgenError(
            f"the images are {'x'.join(map(str, found))} (channels x height x width), and hfgen measures on square ones alone: "
            "sample this model instead"
        )
    if found != shape:
        raise HfgenError(
            f"the images are {'x'.join(map(str, found))} (channels x height x width), the model's "
            f"{'x'.join(map(str, shape))}: evaluate on the images that it was made for, or pass --resolution {shape[1]} to have "
            "them resized as the trainers do"
        )
