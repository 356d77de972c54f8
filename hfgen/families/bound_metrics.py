"""A bound as metrics, for the families whose bound has terms: of models of classes with the class withheld, and given it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from hfgen.data.evaluation_images import EvaluationImages
from hfgen.likelihood import Estimate
from hfgen.results import Metric

GIVEN = "bound of images given their class (upper bound on -log p(x | class))"

WITHHELD_NOTE = "The bound is that of the network that is not told the class, so that it can be compared with those of other models."


class Bound(Protocol):
    """Estimates in nats per image, by name, such as `VlbTerms`."""

    total: Estimate

    def bits_per_dim(self, estimate: Estimate) -> Estimate:
        """Nats per image as bits per dimension."""


def bound_metrics(names: Mapping[str, str], bound: Bound, *, withheld: bool) -> dict[str, Metric]:
    """The attributes `names` of a bound in bits/dim and nats; `withheld` says of the total that the class was not told."""
    metrics: dict[str, Metric] = {}
    for key, name in names.items():
        total = key == "total"
        told = f"{name}, class withheld" if total and withheld else name
        metrics |= _both_units(f"vlb_{key}", told, getattr(bound, key), bound, "bound" if total else None)
    return metrics


def conditional_metrics(bound: Bound) -> dict[str, Metric]:
    """The total of a bound that was evaluated with the network told the class of each image."""
    return _both_units("conditional_vlb_total", GIVEN, bound.total, bound, "conditional bound")


def own_labels(data: EvaluationImages, names: Sequence[str]) -> torch.Tensor | None:
    """The classes of the images by a model's numbers, int64 (N,); None where they have none, or one that the model has not."""
    if data.labels is None or not set(data.class_names) <= set(names):
        return None
    number = torch.tensor([list(names).index(name) for name in data.class_names])
    return number[data.labels]


def _both_units(key: str, name: str, nats: Estimate, bound: Any, role: str | None) -> dict[str, Metric]:
    metrics = {}
    for suffix, unit, value in (("_bits_per_dim", "bits/dim", bound.bits_per_dim(nats)), ("", "nats/image", nats)):
        metrics[f"{key}{suffix}"] = Metric(
            name=name, mean=value.mean, standard_error=value.standard_error, unit=unit, role=role
        )
    return metrics
