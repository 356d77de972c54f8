"""The bounds of a flow on the likelihood of 8-bit images."""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from hfgen.core.errors import HfgenError
from hfgen.data.evaluation_images import EvaluationImages
from hfgen.families.base import LikelihoodSettings
from hfgen.likelihood.flow import IMAGES_AT_ONCE, DequantizationBounds, dequantization_bounds
from hfgen.results import LikelihoodResult, Metric

QUANTITY = "log-likelihood of 8-bit pixels"


def evaluate_bounds(flow: Any, data: EvaluationImages, settings: LikelihoodSettings) -> LikelihoodResult:
    """The bound of a noise for each image and the importance-weighted one of K, in nats and in bits/dim, with standard errors.

    Errors as `dequantization_bounds`, and for a full device.
    """
    config, samples = flow.config, settings.options.iw_samples
    start = time.perf_counter()
    try:
        bounds = dequantization_bounds(
            flow.eval(),
            data.images,
            variational=config.dequantization == "variational",
            num_samples=samples,
            seed=settings.seed,
            batch_size=settings.batch_size or IMAGES_AT_ONCE,
            resumable=settings.resumable,
        )
    except torch.OutOfMemoryError as error:
        raise HfgenError(f"the images of a batch do not fit on {flow.device}: lower --batch_size") from error
    return LikelihoodResult(
        quantity=QUANTITY,
        likelihood=f"exact density, {config.dequantization} dequantisation",
        how=f"{samples:,} noises an image",
        facts={"iw_samples": samples, "coupling": config.coupling, "dequantization": config.dequantization},
        metrics=_metrics(bounds, math.prod(flow.shape)),
        seconds=time.perf_counter() - start,
    )


def _metrics(bounds: DequantizationBounds, dimensions: int) -> dict[str, Metric]:
    names = {
        "negative_elbo": ("bound by dequantisation (upper bound on the NLL)", "bound"),
        "negative_iw_bound": (
            f"importance-weighted bound by dequantisation, k = {bounds.num_samples} (upper bound on the NLL)",
            "importance-weighted bound",
        ),
    }
    metrics = {}
    for suffix, unit, scale in (("_bits_per_dim", "bits/dim", 1 / (dimensions * math.log(2))), ("", "nats/image", 1.0)):
        for key, (name, role) in names.items():
            mean, error = bounds.mean(key) * scale, bounds.standard_error(key) * scale
            metrics[f"{key}{suffix}"] = Metric(name=name, mean=mean, standard_error=error, unit=unit, role=role)
    return metrics
