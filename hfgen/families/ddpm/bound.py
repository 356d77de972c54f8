"""The bound of a diffusion model on the likelihood of images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import SchedulerMixin

from hfgen.core.errors import HfgenError
from hfgen.core.resume import Resumable
from hfgen.data.evaluation_images import EvaluationImages
from hfgen.families.base import LikelihoodSettings
from hfgen.families.bound_metrics import bound_metrics, conditional_metrics, own_labels
from hfgen.likelihood import Estimate, VlbTerms, exact_vlb, sampled_vlb
from hfgen.process import ReverseProcess
from hfgen.results import WITHHELD, BoundTerms, LikelihoodResult
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

    `model` is called as `model(x_t, timesteps)`. Of one that is told classes, `Classes`, this is the bound with the class withheld;
    where the images have its classes, the bound given the class stands beside it. Errors as `reverse_process`, `exact_vlb` and
    `sampled_vlb`.
    """
    process, start = reverse_process(scheduler), time.perf_counter()
    bound = _measured(model, process, data, settings)
    classes = model if isinstance(model, Classes) else None
    labels = None if classes is None else own_labels(data, classes.names)
    told = {} if labels is None else conditional_metrics(_measured(model, process, data, settings, labels))
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
            **({} if classes is None else {"class": WITHHELD}),
        },
        metrics=bound_metrics(NAMES, bound, withheld=classes is not None) | told,
        terms=_terms(bound),
        seconds=time.perf_counter() - start,
    )


def _measured(
    model: Any,
    process: ReverseProcess,
    data: EvaluationImages,
    settings: LikelihoodSettings,
    labels: torch.Tensor | None = None,
) -> VlbTerms:
    options, resumable = settings.options, settings.resumable or Resumable(None)
    arguments = {
        "labels": labels,
        "seed": settings.seed,
        "batch_size": settings.batch_size,
        "resumable": resumable if labels is None else resumable.under("conditional"),
    }
    if options.exact:
        return exact_vlb(model, process, data.images, **arguments)
    return sampled_vlb(model, process, data.images, evaluations=options.evaluations, **arguments)


def check_first_timestep(unet: torch.nn.Module) -> None:
    """Raise `HfgenError` for a network that has no value at timestep 0, of which the bound has a term."""
    if unet.config.time_embedding_type == "fourier":
        raise HfgenError(
            "this UNet embeds the log of timesteps (time_embedding_type='fourier'), which is not finite at timestep 0, and the "
            "bound has a term there: measure its samples instead, --samples N"
        )


class Classes:
    """A class-conditional network: told no labels it gets the one that stands for none, and its bound is one on p(x), as that
    of other models.

    Attributes:
        names: of its classes.
    """

    def __init__(self, unet: torch.nn.Module, names: Sequence[str]):
        self.unet, self.names = unet, names
        self.device, self.dtype = unet.device, unet.dtype

    def eval(self) -> Classes:
        """As a network's."""
        self.unet.eval()
        return self

    def __call__(self, x_t: torch.Tensor, timesteps: torch.Tensor, class_labels: torch.Tensor | None = None) -> Any:
        if class_labels is None:
            class_labels = torch.full_like(timesteps, len(self.names))
        return self.unet(x_t, timesteps, class_labels=class_labels)


def _terms(bound: VlbTerms) -> BoundTerms:
    scale = bound.bits_per_dim(Estimate(1.0, 0.0)).mean
    steps, error = (_finite(values * scale) for values in (bound.steps, bound.steps_error))
    return BoundTerms(mean=steps, standard_error=error, draws=tuple(bound.draws.tolist()))


def _finite(values: torch.Tensor) -> tuple[float | None, ...]:
    return tuple(value if value == value else None for value in values.tolist())
