"""The bound by sampled t: unbiased, with as many network evaluations as one can afford."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from tqdm.auto import tqdm

from hfgen.core.errors import HfgenError
from hfgen.core.processes import is_first, shared
from hfgen.core.random import Stream, seeded
from hfgen.core.resume import Resumable
from hfgen.likelihood.images import Images, as_model_sees
from hfgen.likelihood.vlb import (
    DenoisingNetwork,
    Estimate,
    Evaluator,
    VlbTerms,
    dimensions,
    estimate,
    mean_and_error,
    prior_kl,
)
from hfgen.process import ReverseProcess

ROUNDS = 20
LEAST_EVALUATIONS = 5 * ROUNDS
DEFENSIVE = 0.1


def sampled_vlb(
    model: DenoisingNetwork,
    process: ReverseProcess,
    images: Images,
    *,
    evaluations: int = 100_000,
    labels: torch.Tensor | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    resumable: Resumable | None = None,
) -> VlbTerms:
    """An unbiased estimate of the bound from `evaluations` network calls, in 20 rounds.

    A round draws its t from a distribution p over 1..T, one from each of equally likely strata, pairs them at random with
    images (all images are taken in turn, in a random order) and estimates sum_t E_x f(x, t) by the mean of f / p, where f is
    L_{t-1} or L_0. Its p comes from the rounds before: proportional to the root of the mean square of f at t, which minimises
    the variance, with a tenth of the first round's p, half uniform and half 1/t, so that no t is left out. Given what
    came before, each round is unbiased; so is their mean. The standard errors come from the spread of the rounds, which
    holds that of images, times and noise.

    Arguments and errors as `exact_vlb`; `HfgenError` for fewer than 100 evaluations.

    Source: Ho et al. 2020, equation 5; importance sampling of t as in Nichol & Dhariwal 2021, section 3.3.
    """
    if evaluations < LEAST_EVALUATIONS:
        raise HfgenError(f"evaluations={evaluations}: use {LEAST_EVALUATIONS} or more")
    resumable = resumable or Resumable(None)
    evaluate = Evaluator(model, process, batch_size)
    prior = prior_kl(process.forward, images)
    history, at_once = _History(process.num_steps, resumable), evaluate.batch_size
    hidden = not is_first()
    with tqdm(total=evaluations, initial=history.draws, desc="bound", unit="evaluation", disable=hidden) as bar:
        for number in range(history.rounds, ROUNDS):
            first, end = (evaluations * r // ROUNDS for r in (number, number + 1))
            probability = history.probability()
            generator = seeded("cpu", seed, Stream.EVALUATION, number)
            timesteps = stratified_times(probability, end - first, generator)
            rows = _rows(len(images), first=first, end=end, seed=seed)
            told = None if labels is None else labels[rows]
            work = _Round(
                evaluate=evaluate, images=images, rows=rows, timesteps=timesteps, labels=told, seed=seed, number=number
            )
            parts = []
            # in batches that are those of all processes, whatever fits into the memory of one
            for batch, part in shared(torch.arange(len(rows)).split(at_once), work.terms):
                parts.append(part)
                bar.update(len(batch))
            terms = torch.cat(parts)
            history.add(timesteps, terms, probability)
    return history.result(prior, images, evaluations)


def stratified_times(probability: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """`count` timesteps, int64, in random order, whose values fall with `probability`, one in each stratum of mass 1/count."""
    places = (torch.arange(count) + torch.rand(count, generator=generator, dtype=torch.float64)) / count
    timesteps = torch.searchsorted(probability.cumsum(0), places, right=True).clamp(max=len(probability) - 1)
    return timesteps[torch.randperm(count, generator=generator)]


def _rows(count: int, *, first: int, end: int, seed: int) -> torch.Tensor:
    """Places first..end-1 of permutations of the images that follow each other."""
    places = torch.arange(first, end)
    orders = {
        cycle: torch.randperm(count, generator=seeded("cpu", seed, Stream.ORDER, cycle))
        for cycle in range(first // count, (end - 1) // count + 1)
    }
    return torch.cat([orders[c][places[places // count == c] % count] for c in orders])


@dataclass(frozen=True, kw_only=True)
class _Round:
    """The draws of a round: images by row, their timesteps, and their classes where the network is told them."""

    evaluate: Evaluator
    images: Images
    rows: torch.Tensor
    timesteps: torch.Tensor
    labels: torch.Tensor | None
    seed: int
    number: int

    def terms(self, batches: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        """f of the draws of each batch, float64 on the CPU; the noise of a draw does not depend on the batches."""
        device, drawn = self.evaluate.device, 0
        generator = seeded("cpu" if device.type == "mps" else device, self.seed, Stream.EVALUATION, self.number, 1)
        pictures = self.images.batches([self.rows[batch] for batch in batches])
        for batch, pixels in zip(batches, pictures, strict=True):
            x_0, first, end = as_model_sees(pixels), int(batch[0]), int(batch[-1]) + 1
            # a generator cannot be set forward: the noise of other processes' draws is drawn too
            noise = [
                torch.randn(x_0.shape[1:], generator=generator, device=generator.device) for _ in range(drawn, end)
            ]
            told = None if self.labels is None else self.labels[batch].to(device)
            own, drawn = torch.stack(noise[first - drawn :]).to(device), end
            yield self.evaluate(x_0, own, self.timesteps[batch].to(device), told).double().cpu()


class _History:
    """What the rounds so far have found."""

    def __init__(self, steps: int, resumable: Resumable):
        self.resumable = resumable
        self.tensors = resumable.load("sampled") or {
            "steps": torch.zeros(3, steps, dtype=torch.float64),
            "rounds": torch.zeros(0, 2, dtype=torch.float64),
        }

    @property
    def rounds(self) -> int:
        return len(self.tensors["rounds"])

    @property
    def draws(self) -> int:
        return int(self.tensors["steps"][0].sum())

    def probability(self) -> torch.Tensor:
        """p of the next round, float64 (T,)."""
        count, _, squares = self.tensors["steps"]
        first = 0.5 * (_normalised(torch.ones_like(count)) + _normalised(1 / torch.arange(1, len(count) + 1).double()))
        if self.rounds == 0:
            return first
        seen = count > 0
        root = (squares[seen] / count[seen]).sqrt()
        return DEFENSIVE * first + (1 - DEFENSIVE) * _normalised(_interpolated(root, seen))

    def add(self, timesteps: torch.Tensor, terms: torch.Tensor, probability: torch.Tensor) -> None:
        steps = self.tensors["steps"]
        for row, values in enumerate((torch.ones_like(terms), terms, terms.square())):
            steps[row].index_add_(0, timesteps, values)
        # of draws from p the mean of f / p is sum_t f(t), whatever p: p was fixed before this round drew, and so it is unbiased
        weighted = terms / probability[timesteps] / len(terms)
        first = timesteps == 0
        found = torch.stack([weighted[first].sum(), weighted[~first].sum()])
        self.tensors["rounds"] = torch.cat([self.tensors["rounds"], found[None]])
        self.resumable.save("sampled", self.tensors)

    def result(self, prior: torch.Tensor, images: Images, evaluations: int) -> VlbTerms:
        reconstruction, diffusion = self.tensors["rounds"].unbind(1)
        of_prior = estimate(prior)
        # by round, as both parts come from the same draws: their errors do not add as independent ones
        drawn = estimate(reconstruction + diffusion)
        count, sums, squares = self.tensors["steps"]
        steps, error = mean_and_error(sums, squares, count)
        return VlbTerms(
            dimensions=dimensions(images),
            images=len(images),
            evaluations=evaluations,
            exact=False,
            total=Estimate(of_prior.mean + drawn.mean, (of_prior.standard_error**2 + drawn.standard_error**2) ** 0.5),
            prior=of_prior,
            diffusion=estimate(diffusion),
            reconstruction=estimate(reconstruction),
            steps=steps,
            steps_error=error,
            draws=count.long(),
        )


def _normalised(values: torch.Tensor) -> torch.Tensor:
    return values / values.sum()


def _interpolated(values: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """`values` at the places that are `known`, between them linear, beyond them constant; float64 (T,)."""
    places = known.nonzero()[:, 0]
    everywhere = torch.arange(len(known))
    right = torch.searchsorted(places, everywhere).clamp(max=len(places) - 1)
    left = (torch.searchsorted(places, everywhere, right=True) - 1).clamp(min=0)
    gap = (places[right] - places[left]).clamp(min=1)
    share = ((everywhere - places[left]).double() / gap).clamp(0, 1)
    return torch.lerp(values[left], values[right], share)
