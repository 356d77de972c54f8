"""The bound of a variational diffusion model on the likelihood of images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from hfgen.core.errors import HfgenError
from hfgen.core.resume import Resumable
from hfgen.data.evaluation_images import EvaluationImages
from hfgen.families.base import LikelihoodSettings
from hfgen.families.bound_metrics import bound_metrics, conditional_metrics, own_labels
from hfgen.likelihood.vdm import VDMTerms, vdm_bound
from hfgen.likelihood.vlb import Estimate
from hfgen.results import WITHHELD, BoundTerms, LikelihoodResult

NAMES = {
    "total": "variational bound (upper bound on the NLL)",
    "prior": "prior, KL(q(z_1|x) || N(0, I))",
    "diffusion": "diffusion",
    "reconstruction": "reconstruction, -E log p(x|z_0)",
}
QUANTITY = "log-likelihood of 8-bit pixels"


def evaluate_bound(
    vdm: Any, data: EvaluationImages, settings: LikelihoodSettings, names: Sequence[str] | None = None
) -> LikelihoodResult:
    """The bound and its terms: metrics in nats and in bits/dim, and the diffusion term over t.

    Of a model that is told classes, by `names`, it is the bound of p(x), the class withheld; where the images have its classes the
    bound given the class stands beside it. Errors as `vdm_bound`, and for a full device.
    """
    start = time.perf_counter()
    bound = _measured(vdm, data, settings)
    labels = own_labels(data, names) if names else None
    told = {} if labels is None else conditional_metrics(_measured(vdm, data, settings, labels))
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
            **({"class": WITHHELD} if names else {}),
        },
        metrics=bound_metrics(NAMES, bound, withheld=bool(names)) | told,
        terms=_terms(bound),
        seconds=time.perf_counter() - start,
    )


def _measured(
    vdm: Any, data: EvaluationImages, settings: LikelihoodSettings, labels: torch.Tensor | None = None
) -> VDMTerms:
    options, resumable = settings.options, settings.resumable or Resumable(None)
    try:
        bound = vdm_bound(
            predictor(vdm),
            vdm.schedule,
            data.images,
            prediction_type=vdm.config.prediction_type,
            num_steps=options.bound_steps,
            evaluations=options.evaluations,
            labels=labels,
            seed=settings.seed,
            batch_size=settings.batch_size,
            resumable=resumable if labels is None else resumable.under("conditional"),
        )
    except torch.OutOfMemoryError as error:
        raise HfgenError(f"the images of a batch do not fit on {vdm.device}: lower --batch_size") from error
    if not bound.total.mean < float("inf"):
        raise HfgenError(f"the bound is {bound.total.mean}: the weights are damaged, or the training was")
    return bound


def predictor(vdm: Any):
    """The network as `vdm_bound` calls it, ready to be evaluated."""
    vdm.eval()
    return lambda z, gamma, **cond: vdm(z, gamma, **cond).sample


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
