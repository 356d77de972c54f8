"""The training images nearest to samples: whether a model draws, or repeats what it has seen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch

from hfgen.core.statistics import standard_error
from hfgen.results import Metric

VALUES_AT_ONCE = 1 << 23


class TrainingImages(Protocol):
    """uint8 images by row number."""

    def __len__(self) -> int:
        """How many there are."""

    def batches(self, rows: Iterable[torch.Tensor], /) -> Iterator[torch.Tensor]:
        """For each int64 tensor of row numbers, these images (B, C, H, W)."""


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """Of each of N images the nearest training image.

    Attributes:
        images: uint8 (N, C, H, W).
        distances: the root of the mean square of the differences of pixel values, 0..255, float64 (N,).
    """

    images: torch.Tensor = field(repr=False)
    distances: torch.Tensor


def nearest_training_images(images: torch.Tensor, training: TrainingImages) -> Nearest:
    """The training image of least Euclidean distance in pixels to each of `images`, uint8 (N, C, H, W), sought in blocks.

    In float64 on the CPU: memory does not grow with the number of training images.
    """
    wanted = images.cpu().flatten(1).double()
    best, found = torch.full((len(images),), torch.inf, dtype=torch.float64), torch.empty_like(images, device="cpu")
    rows = torch.arange(len(training)).split(max(1, VALUES_AT_ONCE // wanted.shape[1]))
    for pixels in training.batches(rows):
        pixels = pixels.cpu()
        distance, place = torch.cdist(wanted, pixels.flatten(1).double()).min(1)
        nearer = distance < best
        best[nearer], found[nearer] = distance[nearer], pixels[place[nearer]]
    # of the difference itself, as an expanded square leaves no exact 0 between equal images
    differences = found.flatten(1).double() - wanted
    return Nearest(images=found, distances=differences.square().mean(1).sqrt())


def distance_metrics(samples: Nearest, real: Nearest) -> dict[str, Metric]:
    """The mean distances of samples and of real images, which are the floor: well below it the model repeats training images."""
    name = "distance in pixels (0..255) to the nearest training image"
    metrics = {}
    for key, nearest, words in (("", samples, ""), ("_floor", real, ", floor: held-out images")):
        error = standard_error(nearest.distances)
        mean = nearest.distances.mean().item()
        metrics[f"nearest_training{key}"] = Metric(name=f"{name}{words}", mean=mean, standard_error=error)
    return metrics
