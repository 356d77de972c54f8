"""The bound of a variational diffusion model on the likelihood of images."""

from __future__ import annotations

import time
from typing import Any

import torch

from hfgen.core.errors import HfgenError
from hfgen.data.evaluation_images import EvaluationImages
from hfgen.families.base import LikelihoodSettings
from hfgen.likelihood.vdm import VDMTerms, vdm_bound
from hfgen.likelihood.vlb import Estimate
from hfgen.results import BoundTerms, LikelihoodResult, Metric

NAMES = {
    "total": "variational bound (upper bound on the NLL)",
    "prior": "prior, KL(q(z_1|x) || N(0, I))",
    "diffusion": "diffusion",
    "reconstruction": "reconstruction, -E log p(x|z_0)",
}
QUANTITY = "log-likelihood of 8-bit pixels"


def evaluate_bound(vdm: Any, data: EvaluationImages, settings: LikelihoodSettings) -> LikelihoodResult:
    """The bound and its terms: metrics in nats and in bits/dim, and the diffusion term over t.

    Of a model that is told classes it is the bound of p(x), the class withheld. Errors as `vdm_bound`, and for a full device.
    """
    options, start = settings.options, time.perf_counter()
    try:
        bound = vdm_bound(
            predictor(vdm),
            vdm.schedule,
            data.images,
            prediction_type=vdm.config.prediction_type,
            num_steps=options.bound_steps,
            evaluations=options.evaluations,
            seed=settings.seed,
            batch_size=settings.batch_size,
            resumable=settings.resumable,
        )
    except torch.OutOfMemoryError as error:
        raise HfgenError(f"the images of a batch do not fit on {vdm.device}: lower --batch_size") from error
    if not bound.total.mean < float("inf"):
        raise HfgenError(f"the bound is {bound.total.mean}: the weights are damaged, or the training was")
    chain = "continuous time" if bound.num_steps is None else f"T = {bound.num_steps}"
    gamma_0, gamma_1 = (end.item() for end in vdm.schedule.ends())
    return LikelihoodResult(
        quantity=QUANTITY,
        likelihood="softmax over 256 values at t = 0",
        how=f"{bound.evaluations:,} network evaluations, {chain}",
        facts={
            "T": bound.num_steps,
            "gamma": vdm.config.gamma,
            "gamma_0": gamma_0,
            "gamma_1": gamma_1,
            "prediction_type": vdm.config.prediction_type,
            "evaluations": bound.evaluations,
            "deviation_of_one_evaluation_bits_per_dim": bound.bits_per_dim(Estimate(bound.deviation, 0.0)).mean,
        },
        metrics=_metrics(bound),
        terms=_terms(bound),
        seconds=time.perf_counter() - start,
    )


def predictor(vdm: Any):
    """The network as `vdm_bound` calls it, ready to be evaluated."""
    vdm.eval()
    return lambda z, gamma: vdm(z, gamma).sample


def _metrics(bound: VDMTerms) -> dict[str, Metric]:
    metrics = {}
    for key, name in NAMES.items():
        nats, role = getattr(bound, key), "bound" if key == "total" else None
        for suffix, unit, value in (("_bits_per_dim", "bits/dim", bound.bits_per_dim(nats)), ("", "nats/image", nats)):
            metrics[f"vlb_{key}{suffix}"] = Metric(
                name=name, mean=value.mean, standard_error=value.standard_error, unit=unit, role=role
            )
    return metrics


def _terms(bound: VDMTerms) -> BoundTerms:
    """The reconstruction, and the diffusion term by parts of [0, 1]: as the terms of a chain of so many steps."""
    scale = bound.bits_per_dim(Estimate(1.0, 0.0)).mean
    first = bound.reconstruction
    return BoundTerms(
        mean=_finite(torch.cat([torch.tensor([first.mean]), bound.curve]) * scale),
        standard_error=_finite(torch.cat([torch.tensor([first.standard_error]), bound.curve_error]) * scale),
        draws=(bound.images, *bound.draws.tolist()),
    )


def _finite(values: torch.Tensor) -> tuple[float | None, ...]:
    return tuple(value if value == value else None for value in values.tolist())
