"""The bounds of a VAE on the likelihood of images."""

from __future__ import annotations

import math
import time
from typing import Any

from hfgen.data.evaluation_images import EvaluationImages
from hfgen.families.base import LikelihoodSettings
from hfgen.likelihood import VAEBounds, vae_bounds
from hfgen.results import LikelihoodResult, Metric

BATCH = 20
ROLES = {"negative_elbo": "bound", "negative_iw_bound": "importance-weighted bound"}


def evaluate_bounds(vae: Any, data: EvaluationImages, settings: LikelihoodSettings) -> LikelihoodResult:
    """The ELBO, its terms, of several layers the KL of each, and the importance-weighted bound, with standard errors over images.

    They are called bounds on an NLL only where the likelihood is one of discrete data; 8-bit likelihoods come in bits/dim too.
    Errors as `vae_bounds`.
    """
    config, likelihood, k = vae.config, vae.likelihood, settings.options.iw_samples
    start = time.perf_counter()
    bounds = vae_bounds(
        vae.eval(),
        data.images,
        num_samples=k,
        seed=settings.seed,
        batch_size=settings.batch_size or BATCH,
        resumable=settings.resumable,
    )
    names = {
        "reconstruction": "reconstruction, -E log p(x|z)",
        "kl": "KL(q(z|x) || p(z))",
        **_layer_names(bounds),
        "negative_elbo": _bound_name("-ELBO", likelihood),
        "negative_iw_bound": _bound_name(f"importance-weighted bound, k = {k}", likelihood),
    }
    metrics = {
        key: Metric(
            name=name,
            mean=bounds.mean(key),
            standard_error=bounds.standard_error(key),
            unit="nats/image",
            role=ROLES.get(key),
        )
        for key, name in names.items()
    }
    if likelihood.discrete and likelihood.binarization is None:
        dimensions = config.in_channels * config.sample_size**2
        metrics |= {f"{key}_bits_per_dim": _in_bits(metrics[key], dimensions) for key in ROLES}
    return LikelihoodResult(
        quantity=likelihood.quantity,
        likelihood=config.likelihood,
        how=f"{k:,} samples an image",
        facts={"iw_samples": k, **_by_layer(bounds)},
        metrics=metrics,
        seconds=time.perf_counter() - start,
    )


def _layer_names(bounds: VAEBounds) -> dict[str, str]:
    """Of several layers the KL of each, with how many of its latents are active where that is known."""
    layers = zip(bounds.names[len(bounds.NAMES) :], bounds.active_units, bounds.latent_sizes, strict=False)
    return {
        name: f"KL of layer {layer}" + ("" if active is None else f" ({active} of {size} latents active)")
        for layer, (name, active, size) in enumerate(layers, 1)
    }


def _by_layer(bounds: VAEBounds) -> dict[str, Any]:
    if len(bounds.latent_sizes) == 1:
        return {}
    return {"latents": list(bounds.latent_sizes), "active_units": list(bounds.active_units)}


def _bound_name(name: str, likelihood: Any) -> str:
    if likelihood.discrete:
        return f"{name} (upper bound on the NLL)"
    return f"{name} of a {likelihood.quantity.split(' of ')[0]}: not an NLL"


def _in_bits(metric: Metric, dimensions: int) -> Metric:
    scale = 1 / (dimensions * math.log(2))
    return Metric(
        name=metric.name,
        mean=metric.mean * scale,
        standard_error=None if metric.standard_error is None else metric.standard_error * scale,
        unit="bits/dim",
        role=metric.role,
    )
