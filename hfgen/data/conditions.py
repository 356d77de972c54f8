"""Pictures that images are to follow: a column of them, or made of the images themselves by a named transform."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset

from hfgen.configs.training import ControlledData
from hfgen.core.errors import HfgenError
from hfgen.core.memory import check_fits
from hfgen.data.loading import Rows
from hfgen.data.sources import find_image_column

AT_ONCE = 512
FULL = 255
HALF = 128
LOW = 4


@dataclass(frozen=True, kw_only=True)
class ConditionRule:
    """Where the pictures to follow come from.

    Attributes:
        column: of the dataset; None: they are made by `transform`.
        transform: of `TRANSFORMS`, by which they are or were made; None: nobody knows.
    """

    column: str | None
    transform: str | None


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Pictures to follow, one for each image.

    Attributes:
        images: uint8 (N, 1 or C, H, W), on the CPU.
        transform: of `TRANSFORMS`, by which they were made; None: nobody knows.
    """

    images: torch.Tensor
    transform: str | None


def condition_rule(data: ControlledData, dataset: Dataset) -> ConditionRule:
    """The rule of the flags; `HfgenError` for a column that there is not, and where the flags name none and no transform."""
    column, transform = data.conditioning_column, data.condition
    if column is None and transform is None:
        raise HfgenError(
            f"nothing says which pictures the images are to follow: pass --condition {', '.join(TRANSFORMS)} or --conditioning_column"
        )
    if column is not None:
        if column not in dataset.features:
            raise HfgenError(
                f"conditioning_column={column!r} is not in the dataset; its columns are {', '.join(dataset.features)}"
            )
        try:
            find_image_column(dataset, column)
        except HfgenError as error:
            raise HfgenError(str(error).replace("image_column=", "conditioning_column=", 1)) from error
    return ConditionRule(column=column, transform=transform)


def canny(image: np.ndarray) -> np.ndarray:
    """Edges of an image, uint8 (C, H, W): 255 where there is one, else 0, (1, H, W).

    Source: Canny 1986; scikit-image's, with a Gaussian of one pixel.
    """
    from skimage.feature import canny as edges

    return _binary(edges(_grey(image) / FULL, sigma=1.0))


def skeleton(image: np.ndarray) -> np.ndarray:
    """The middle lines, one pixel wide, of what is lighter than half, uint8 (C, H, W): 255 on them, else 0, (1, H, W).

    Source: Zhang & Suen 1984, as scikit-image has it.
    """
    from skimage.morphology import skeletonize

    return _binary(skeletonize(_grey(image) >= HALF))


def low_resolution(image: np.ndarray) -> np.ndarray:
    """An image, uint8 (C, H, W), at a quarter of its resolution: means of 4x4 pixels, each shown as large as they were."""
    channels, height, width = image.shape
    rows, columns = (np.arange(side) // LOW for side in (height, width))
    small = np.zeros((channels, rows[-1] + 1, columns[-1] + 1))
    np.add.at(small, (slice(None), rows[:, None], columns[None]), image.astype(float))
    counts = np.bincount(rows)[:, None] * np.bincount(columns)[None]
    return (small / counts).round().astype(np.uint8)[:, rows[:, None], columns[None]]


TRANSFORMS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "canny": canny,
    "skeleton": skeleton,
    "low_resolution": low_resolution,
}


def transformed(images: torch.Tensor, transform: str) -> torch.Tensor:
    """The pictures to follow, uint8 (N, 1 or C, H, W), of uint8 images (N, C, H, W); on the CPU."""
    made = [TRANSFORMS[transform](image) for image in images.cpu().numpy()]
    return torch.from_numpy(np.stack(made))


def all_conditions(rule: ConditionRule, images: Rows, of_column: Callable[[], Rows]) -> Conditions:
    """Those of all rows, in memory; `of_column` gives the pictures of the rule's column.

    Raises `HfgenError` where they do not fit.
    """
    rows = torch.arange(len(images)).split(AT_ONCE)
    source = of_column() if rule.column is not None else images
    parts: list[torch.Tensor] = []
    for pixels in source.batches(rows):
        if not parts:
            check_fits(
                len(images) * pixels[0].numel(), "the pictures to follow", "use fewer images, --max_train_samples"
            )
        made = transformed(pixels, rule.transform) if rule.column is None and rule.transform else pixels.cpu()
        parts.append(made)
    return Conditions(images=torch.cat(parts), transform=rule.transform)


def _grey(image: np.ndarray) -> np.ndarray:
    """(H, W), 0..255: of a coloured image its luma."""
    weights = np.array([0.299, 0.587, 0.114]) if len(image) == 3 else np.full(len(image), 1 / len(image))
    return np.tensordot(weights, image.astype(float), axes=1)


def _binary(mask: np.ndarray) -> np.ndarray:
    return (mask[None] * FULL).astype(np.uint8)
