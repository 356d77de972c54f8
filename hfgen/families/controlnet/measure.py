"""How well samples keep the pictures that they were to follow."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from hfgen.core.statistics import standard_error
from hfgen.data.conditions import FULL, HALF, transformed
from hfgen.results import Metric

ROUNDING = 1 / 12  # the squared error of rounding to whole values
F1 = "f1"
NAMES = {
    F1: "F1 of {} within a pixel, of samples against the pictures to follow",
    "psnr": "PSNR of {} of samples against the pictures to follow",
}
WORDS = {"canny": "edges", "skeleton": "skeletons", "low_resolution": "a quarter of the resolution"}


def kept(images: torch.Tensor, pictures: torch.Tensor, transform: str) -> torch.Tensor:
    """How well each image, uint8 (N, C, H, W), keeps its picture by the transform that pictures are made by: float64 (N,).

    F1 from 0 to 1 of edges and skeletons, dB of low resolution.
    """
    found = transformed(images, transform)
    if transform == "low_resolution":
        return psnr(found, pictures)
    return f1_within_a_pixel(found[:, 0] >= HALF, pictures[:, 0] >= HALF)


def f1_within_a_pixel(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The F1 of binary maps, bool (N, H, W), float64 (N,): a point counts that has one of the other map at most a pixel away.

    Of two empty maps it is 1. Source: Martin et al. 2004, section 3, with the tolerance in place of their assignment.
    """
    precision, recall = _share_near(found, wanted), _share_near(wanted, found)
    total = precision + recall
    score = torch.where(total > 0, 2 * precision * recall / total.clamp(min=1e-12), 0.0)
    both_empty = ~found.flatten(1).any(1) & ~wanted.flatten(1).any(1)
    return torch.where(both_empty, 1.0, score)


def _share_near(points: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    near = F.max_pool2d(others[:, None].float(), 3, stride=1, padding=1)[:, 0] > 0
    counts = points.flatten(1).sum(1).double()
    return (points & near).flatten(1).sum(1).double() / counts.clamp(min=1)


def psnr(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The peak signal-to-noise ratio of each image, uint8 (N, C, H, W), in dB, float64 (N,); of equal ones that of rounding."""
    error = (found.double() - wanted.double()).square().flatten(1).mean(1)
    return 10 * (FULL**2 / error.clamp(min=ROUNDING)).log10()


def kept_metrics(values: torch.Tensor, uncontrolled: torch.Tensor, transform: str) -> dict[str, Metric]:
    """Means with their standard errors, with and without control."""
    kind = "psnr" if transform == "low_resolution" else F1
    name = NAMES[kind].format(WORDS[transform])
    unit = "dB" if kind == "psnr" else ""
    return {
        f"control_{kind}{key}": Metric(
            name=f"{name}{words}",
            mean=part.mean().item(),
            standard_error=standard_error(part),
            unit=unit,
        )
        for key, words, part in (("", "", values), ("_uncontrolled", ", without control", uncontrolled))
    }
