"""The results of a VAE on a split of a dataset."""

from __future__ import annotations

import math
import time

from hfgen.evaluation.header import header
from hfgen.evaluation.images import load_evaluation_images
from hfgen.likelihood import vae_bounds
from hfgen.resume import Resumable


def evaluate_vae(
    vae,
    dataset_name: str,
    split: str = "test",
    num_samples: int = 5000,
    max_images: int | None = None,
    dataset_config_name: str | None = None,
    seed: int = 0,
    batch_size: int = 20,
    resumable: Resumable | None = None,
) -> dict:
    """Bounds as JSON values: "metrics" holds means and standard errors over images, and says what they measure.

    The importance-weighted bound is called an NLL only where the likelihood is one of discrete data; 8-bit likelihoods
    come in bits/dim too. Arguments and errors as `load_evaluation_images` and `vae_bounds`.
    """
    config, likelihood = vae.config, vae.likelihood
    data = load_evaluation_images(
        dataset_name, split, config.in_channels, config.sample_size, vae.device, max_images, dataset_config_name
    )
    start = time.perf_counter()
    bounds = vae_bounds(vae.eval(), data.images, num_samples, seed, batch_size, resumable)
    names = {
        "reconstruction": "reconstruction, -E log p(x|z)",
        "kl": "KL(q(z|x) || p(z))",
        "negative_elbo": _bound_name("-ELBO", likelihood),
        "negative_iw_bound": _bound_name(f"importance-weighted bound, k = {num_samples}", likelihood),
    }
    metrics = {
        key: {
            "name": name,
            "mean": bounds.mean(key),
            "standard_error": bounds.standard_error(key),
            "unit": "nats/image",
        }
        for key, name in names.items()
    }
    if likelihood.discrete and likelihood.binarization is None:
        dimensions = config.in_channels * config.sample_size**2
        for key in ("negative_elbo", "negative_iw_bound"):
            metrics[f"{key}_bits_per_dim"] = _in_bits(metrics[key], dimensions)
    return header(vae, dataset_name, data.fingerprint, split, len(data.images), seed) | {
        "likelihood": config.likelihood,
        "quantity": likelihood.quantity,
        "iw_samples": num_samples,
        "metrics": metrics,
        "seconds": time.perf_counter() - start,
    }


def _bound_name(name: str, likelihood) -> str:
    if likelihood.discrete:
        return f"{name} (upper bound on the NLL)"
    return f"{name} of a {likelihood.quantity.split(' of ')[0]}: not an NLL"


def _in_bits(metric: dict, dimensions: int) -> dict:
    scale = 1 / (dimensions * math.log(2))
    return {
        "name": metric["name"],
        "mean": metric["mean"] * scale,
        "standard_error": metric["standard_error"] * scale,
        "unit": "bits/dim",
    }
