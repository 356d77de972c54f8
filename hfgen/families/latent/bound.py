"""The bound of a model of latents: log p(x) >= E_q(z|x)[log p(x|z) - log q(z|x)] + E_q(z|x)[log p(z)], the last bounded in turn.

z is scaled, as the model of latents sees it, in q and in p alike: the scale's log-determinant is in both and cancels.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from diffusers import SchedulerMixin
from tqdm.auto import tqdm

from hfgen.core.errors import HfgenError
from hfgen.core.media import to_model_range
from hfgen.core.processes import is_first, shared
from hfgen.core.resume import Resumable
from hfgen.data.evaluation_images import EvaluationImages
from hfgen.data.latents import decoded
from hfgen.data.loading import ImagesInMemory
from hfgen.families.autoencoder.likelihood import NAME, QUANTITY, likelihood_of
from hfgen.families.autoencoder.measure import draw
from hfgen.families.base import LikelihoodSettings
from hfgen.families.bound_metrics import bound_metrics, conditional_metrics, own_labels
from hfgen.likelihood import Estimate, exact_vlb, sampled_vlb
from hfgen.likelihood.vdm import vdm_bound
from hfgen.likelihood.vlb import estimate
from hfgen.pipelines.latent import NULL_LABEL
from hfgen.results import WITHHELD, LikelihoodResult
from hfgen.schedulers import reverse_process

BATCH = 100
NAMES = {
    "total": "variational bound (upper bound on the NLL)",
    "reconstruction": "autoencoder: -E log p(x|z)",
    "entropy": "autoencoder: E log q(z|x)",
    "prior": "latents: prior, KL(q(z_T|z) || N(0, I))",
    "diffusion": "latents: diffusion",
    "decoder": "latents: -E log p(z|z_1), of a density",
}


class PixelNats(Protocol):
    """-log p(x|z)."""

    def nats(self, x: torch.Tensor, decoded: torch.Tensor) -> torch.Tensor:
        """(B,), of images on [-1, 1] and of what is decoded of z, both (B, C, H, W)."""


class LatentTerms(Protocol):
    """A bound on -log p(z), in nats per image, such as `VlbTerms` and `VDMTerms`."""

    evaluations: int
    total: Estimate
    prior: Estimate
    diffusion: Estimate
    reconstruction: Estimate


@dataclass(frozen=True, kw_only=True)
class LatentBound:
    """-log p(x) <= reconstruction + entropy + (prior + diffusion + decoder), means over images, in nats per image.

    Attributes:
        dimensions: pixel values of an image; `bits_per_dim` divides by D ln 2.
        entropy: E log q(z|x), minus the entropy of q.
        total: its error is that of the autoencoder's part, over images, and of the latents' part together.
    """

    dimensions: int
    total: Estimate
    reconstruction: Estimate
    entropy: Estimate
    prior: Estimate
    diffusion: Estimate
    decoder: Estimate

    def bits_per_dim(self, estimate: Estimate) -> Estimate:
        """Nats per image as bits per dimension."""
        scale = 1 / (self.dimensions * math.log(2))
        return Estimate(estimate.mean * scale, estimate.standard_error * scale)


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A z of each image, scaled, on the images' device, with -log p(x|z) and E log q(z|x), float64 (N,)."""

    z: ImagesInMemory
    reconstruction: torch.Tensor
    entropy: torch.Tensor
    dimensions: int

    def bound(self, latents: LatentTerms) -> LatentBound:
        """All together."""
        own = estimate(self.reconstruction + self.entropy)
        error = math.hypot(own.standard_error, latents.total.standard_error)
        return LatentBound(
            dimensions=self.dimensions,
            total=Estimate(own.mean + latents.total.mean, error),
            reconstruction=estimate(self.reconstruction),
            entropy=estimate(self.entropy),
            prior=latents.prior,
            diffusion=latents.diffusion,
            decoder=latents.reconstruction,
        )


@torch.no_grad()
def draw_latents(
    autoencoder: Any, likelihood: PixelNats, data: EvaluationImages, seed: int, batch_size: int | None
) -> Drawn:
    """One z ~ q(z|x) of each image: that of row i is a function of (seed, i)."""
    rows = torch.arange(len(data.images)).split(batch_size or BATCH)

    def found(own: Sequence[torch.Tensor]) -> Iterator[tuple[torch.Tensor, ...]]:
        for part, pixels in zip(own, data.images.batches(own), strict=True):
            z, _, spread = draw(autoencoder, pixels, part, seed)
            reconstruction = likelihood.nats(to_model_range(pixels), decoded(z, autoencoder)).double().cpu()
            entropy = -(spread.double().log() + 0.5 * math.log(2 * math.pi * math.e)).flatten(1).sum(1).cpu()
            yield z.cpu(), reconstruction, entropy

    bar = tqdm(shared(rows, found), total=len(rows), desc="latents", unit="batch", disable=not is_first())
    z, reconstruction, entropy = map(torch.cat, zip(*(parts for _, parts in bar), strict=True))
    return Drawn(
        z=ImagesInMemory(z.to(autoencoder.device)),
        reconstruction=reconstruction,
        entropy=entropy,
        dimensions=next(data.images.batches([rows[0]]))[0].numel(),
    )


class ToldClasses:
    """A diffusion transformer as the bound calls a network: told no labels it gets the one that stands for none."""

    def __init__(self, transformer: Any, names: Sequence[str]):
        self.transformer, self.names = transformer, names
        self.device, self.dtype = transformer.device, transformer.dtype

    def eval(self) -> ToldClasses:
        """As a network's."""
        self.transformer.eval()
        return self

    def __call__(self, x_t: torch.Tensor, timesteps: torch.Tensor, class_labels: torch.Tensor | None = None) -> Any:
        labels = torch.full_like(timesteps, NULL_LABEL) if class_labels is None else class_labels
        return self.transformer(x_t, timestep=timesteps, class_labels=labels)


def ddpm_bound(
    network: Any, scheduler: SchedulerMixin, autoencoder: Any, data: EvaluationImages, settings: LikelihoodSettings
) -> LikelihoodResult:
    """The bound of a chain of T steps, of p(x), and of a network of classes that given the class beside it.

    Raises `HfgenError` for an autoencoder without a likelihood, and as `sampled_vlb` and `exact_vlb`.
    """
    process = replace(reverse_process(scheduler), continuous=True)
    options, names = settings.options, getattr(network, "names", None)

    def of_latents(z: ImagesInMemory, labels: torch.Tensor | None, resumable: Resumable) -> LatentTerms:
        arguments = {
            "labels": labels,
            "seed": settings.seed,
            "batch_size": settings.batch_size,
            "resumable": resumable,
        }
        if options.exact:
            return exact_vlb(network, process, z, **arguments)
        return sampled_vlb(network, process, z, evaluations=options.evaluations, **arguments)

    facts = {
        "T": process.num_steps,
        "prediction_type": process.parameterization.prediction_type,
        "variance_type": process.variance_type,
    }
    return _result(autoencoder, data, settings, of_latents, facts, names)


def chain_bound(chain: Any, autoencoder: Any, data: EvaluationImages, settings: LikelihoodSettings) -> LikelihoodResult:
    """The bound of the chain of a variational diffusion model of latents. Errors as `ddpm_bound` and `vdm_bound`."""

    def of_latents(z: ImagesInMemory, labels: torch.Tensor | None, resumable: Resumable) -> LatentTerms:
        chain.eval()
        return vdm_bound(
            lambda x, gamma: chain(x, gamma).sample,
            chain.schedule,
            z,
            prediction_type=chain.config.prediction_type,
            num_steps=len(chain.schedule.gamma) - 1,
            continuous=True,
            evaluations=settings.options.evaluations,
            seed=settings.seed,
            batch_size=settings.batch_size,
            resumable=resumable,
        )

    gamma_0, gamma_1 = (end.item() for end in chain.schedule.ends())
    facts = {"T": len(chain.schedule.gamma) - 1, "gamma_0": gamma_0, "gamma_1": gamma_1}
    return _result(autoencoder, data, settings, of_latents, facts, None)


def _result(
    autoencoder: Any,
    data: EvaluationImages,
    settings: LikelihoodSettings,
    of_latents: Callable[[ImagesInMemory, torch.Tensor | None, Resumable], LatentTerms],
    facts: Mapping[str, Any],
    names: Sequence[str] | None,
) -> LikelihoodResult:
    start, resumable = time.perf_counter(), settings.resumable or Resumable(None)
    likelihood = likelihood_of(autoencoder)
    if likelihood is None:
        raise HfgenError(
            "its autoencoder was not trained by a likelihood of pixels, so that there is no bound on one: measure its samples "
            "instead, --samples N, or train an autoencoder with --reconstruction discretized_logistic"
        )
    drawn = draw_latents(autoencoder, likelihood, data, settings.seed, settings.batch_size)
    latents = of_latents(drawn.z, None, resumable)
    bound = drawn.bound(latents)
    labels = own_labels(data, names) if names else None
    told = {}
    if labels is not None:
        told = conditional_metrics(drawn.bound(of_latents(drawn.z, labels, resumable.under("conditional"))))
    return LikelihoodResult(
        quantity=QUANTITY,
        likelihood=f"{NAME} of the decoder",
        how=f"one z an image, {latents.evaluations:,} network evaluations",
        facts={**facts, "evaluations": latents.evaluations, **({"class": WITHHELD} if names else {})},
        metrics=bound_metrics(NAMES, bound, withheld=bool(names)) | told,
        seconds=time.perf_counter() - start,
    )
