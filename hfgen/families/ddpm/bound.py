"""The bound of a diffusion model on the likelihood of images."""

from __future__ import annotations

import time
from typing import Any

import torch
from diffusers import SchedulerMixin

from hfgen.core.errors import HfgenError
from hfgen.data.evaluation_images import EvaluationImages
from hfgen.families.base import LikelihoodSettings
from hfgen.likelihood import Estimate, VlbTerms, exact_vlb, sampled_vlb
from hfgen.results import BoundTerms, LikelihoodResult, Metric
from hfgen.schedulers import reverse_process

NAMES = {
    "total": "variational bound (upper bound on the NLL)",
    "prior": "L_T = KL(q(x_T|x_0) || N(0, I))",
    "diffusion": "sum of L_{t-1} over t = 2..T",
    "reconstruction": "L_0 = -E log p(x_0|x_1)",
}
QUANTITY = "log-likelihood of 8-bit pixels"


def evaluate_bound(
    model: Any, scheduler: SchedulerMixin, data: EvaluationImages, settings: LikelihoodSettings
) -> LikelihoodResult:
    """The bound and its terms: metrics in nats and in bits/dim, L_0, ..., L_{T-1} in bits/dim.

    `model` is called as `model(x_t, timesteps)`. Errors as `reverse_process`, `exact_vlb` and `sampled_vlb`.
    """
    process, options = reverse_process(scheduler), settings.options
    start = time.perf_counter()
    arguments = {"seed": settings.seed, "batch_size": settings.batch_size, "resumable": settings.resumable}
    if options.exact:
        bound = exact_vlb(model, process, data.images, **arguments)
    else:
        bound = sampled_vlb(model, process, data.images, evaluations=options.evaluations, **arguments)
    return LikelihoodResult(
        quantity=QUANTITY,
        likelihood="discretised Gaussian at t = 1",
        how=f"{bound.evaluations:,} network evaluations, {'every' if bound.exact else 'sampled'} t",
        facts={
            "T": process.num_steps,
            "prediction_type": process.parameterization.prediction_type,
            "variance_type": process.variance_type,
            "evaluations": bound.evaluations,
            "exact": bound.exact,
        },
        metrics=_metrics(bound),
        terms=_terms(bound),
        seconds=time.perf_counter() - start,
    )


def check_first_timestep(unet: torch.nn.Module) -> None:
    """Raise `HfgenError` for a network that has no value at timestep 0, of which the bound has a term."""
    if unet.config.time_embedding_type == "fourier":
        raise HfgenError(
            "this UNet embeds the log of timesteps (time_embedding_type='fourier'), which is not finite at timestep 0, and the "
            "bound has a term there: measure its samples instead, --samples N"
        )


class Unlabelled:
    """A class-conditional network with the class withheld: its bound is one on p(x), as that of other models."""

    def __init__(self, unet: torch.nn.Module, null_label: int):
        self.unet, self.null_label = unet, null_label
        self.device, self.dtype = unet.device, unet.dtype

    def eval(self) -> Unlabelled:
        """As a network's."""
        self.unet.eval()
        return self

    def __call__(self, x_t: torch.Tensor, timesteps: torch.Tensor) -> Any:
        return self.unet(x_t, timesteps, class_labels=torch.full_like(timesteps, self.null_label))


def _metrics(bound: VlbTerms) -> dict[str, Metric]:
    metrics = {}
    for key, name in NAMES.items():
        nats, role = getattr(bound, key), "bound" if key == "total" else None
        for suffix, unit, value in (("_bits_per_dim", "bits/dim", bound.bits_per_dim(nats)), ("", "nats/image", nats)):
            metrics[f"vlb_{key}{suffix}"] = Metric(
                name=name, mean=value.mean, standard_error=value.standard_error, unit=unit, role=role
            )
    return metrics


def _terms(bound: VlbTerms) -> BoundTerms:
    scale = bound.bits_per_dim(Estimate(1.0, 0.0)).mean
    steps, error = (_finite(values * scale) for values in (bound.steps, bound.steps_error))
    return BoundTerms(mean=steps, standard_error=error, draws=tuple(bound.draws.tolist()))


def _finite(values: torch.Tensor) -> tuple[float | None, ...]:
    return tuple(value if value == value else None for value in values.tolist())
