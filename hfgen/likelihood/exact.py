"""The bound with every t for every image."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import torch
from tqdm.auto import tqdm

from hfgen.core.processes import is_first, shared
from hfgen.core.random import Stream, seeded
from hfgen.core.resume import SAVE_SECONDS, Resumable
from hfgen.likelihood.images import Images, as_model_sees
from hfgen.likelihood.vlb import (
    DenoisingNetwork,
    Evaluator,
    VlbTerms,
    dimensions,
    estimate,
    mean_and_error,
    prior_kl,
)
from hfgen.process import ReverseProcess


def exact_vlb(
    model: DenoisingNetwork,
    process: ReverseProcess,
    images: Images,
    *,
    labels: torch.Tensor | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    resumable: Resumable | None = None,
) -> VlbTerms:
    """The bound of each image with one noise for each t: N T network evaluations.

    The noise of image i is a function of (seed, i) alone, so that neither `batch_size` nor breaking off and going on matters
    but for rounding. Memory does not grow with the images but for two numbers of each.

    Args:
        model: a `UNet2DModel`, or anything with `device`, `dtype`, `eval()` and the call that `ReverseProcess.terms` makes.
        process: that of the scheduler it was trained with, by `hfgen.schedulers.reverse_process`.
        images: 8-bit, such as `ImagesInMemory` or `ImagesStreamed`; of a continuous process floats as the model sees them.
        labels: the class of each image, int64 (N,), which the network is then told: the bound is one on p(x | class).
        seed: of the noise.
        batch_size: network evaluations at once; by default by the device, halved while it has not enough memory.
        resumable: where to keep what is done.

    Raises `HfgenError` for no images and as `Evaluator`.

    Source: Ho et al. 2020, equation 5.
    """
    resumable = resumable or Resumable(None)
    evaluate = Evaluator(model, process, batch_size)
    prior = prior_kl(process.forward, images)
    sums = _Sums(len(images), process.num_steps, resumable)
    group = max(1, evaluate.batch_size // process.num_steps)
    rows: Sequence[torch.Tensor] = ()
    if sums.done < len(images):
        rows = torch.arange(sums.done, len(images)).split(group)

    def found(own: Sequence[torch.Tensor]) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
        for batch, pixels in zip(own, images.batches(own), strict=True):
            of_batch = None if labels is None else labels[batch]
            yield list(_group_terms(evaluate, as_model_sees(pixels), batch, seed, of_batch))

    with tqdm(total=len(images), initial=sums.done, desc="bound", unit="image", disable=not is_first()) as bar:
        for batch, parts in shared(rows, found):
            for timesteps, terms in parts:
                sums.add(batch, timesteps, terms)
            sums.end(batch)
            bar.update(len(batch))
    return sums.result(prior, images)


def _group_terms(
    evaluate: Evaluator, x_0: torch.Tensor, rows: torch.Tensor, seed: int, labels: torch.Tensor | None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """For each of a few images all t, in parts: timesteps (P,), and the terms, float64 (images, P), both on the CPU."""
    generators = [seeded(x_0.device, seed, Stream.EVALUATION, int(row)) for row in rows]
    shape, device = x_0.shape[1:], x_0.device
    for timesteps in torch.arange(evaluate.process.num_steps, device=device).split(max(1, evaluate.batch_size)):
        count = len(timesteps)
        # a number drawn with a tensor of another size is another number: one call for each t
        noise = torch.stack([torch.randn(shape, generator=g, device=device) for g in generators for _ in range(count)])
        told = None if labels is None else labels.to(device).repeat_interleave(count)
        terms = evaluate(x_0.repeat_interleave(count, 0), noise, timesteps.repeat(len(rows)), told)
        yield timesteps.cpu(), terms.view(len(rows), count).double().cpu()


class _Sums:
    """Sums over images for each step, and each image's L_0 and sum of the L_{t-1}."""

    def __init__(self, images: int, steps: int, resumable: Resumable):
        self.resumable, self.saved_at = resumable, time.monotonic()
        kept = resumable.load("exact")
        self.tensors = kept or {
            "steps": torch.zeros(2, steps, dtype=torch.float64),
            "images": torch.zeros(images, 2, dtype=torch.float64),
            "done": torch.zeros((), dtype=torch.int64),
        }

    @property
    def done(self) -> int:
        return int(self.tensors["done"])

    def add(self, rows: torch.Tensor, timesteps: torch.Tensor, terms: torch.Tensor) -> None:
        self.tensors["steps"][0, timesteps] += terms.sum(0)
        self.tensors["steps"][1, timesteps] += terms.square().sum(0)
        first = timesteps == 0
        self.tensors["images"][rows] += torch.stack([terms[:, first].sum(1), terms[:, ~first].sum(1)], dim=1)

    def end(self, rows: torch.Tensor) -> None:
        self.tensors["done"] += len(rows)
        if time.monotonic() - self.saved_at > SAVE_SECONDS:
            self.resumable.save("exact", self.tensors)
            self.saved_at = time.monotonic()

    def result(self, prior: torch.Tensor, images: Images) -> VlbTerms:
        reconstruction, diffusion = self.tensors["images"].unbind(1)
        draws = torch.full((self.tensors["steps"].shape[1],), len(prior))
        sums, squares = self.tensors["steps"]
        steps, error = mean_and_error(sums, squares, draws)
        return VlbTerms(
            dimensions=dimensions(images),
            images=len(prior),
            evaluations=int(draws.sum()),
            exact=True,
            total=estimate(prior + diffusion + reconstruction),
            prior=estimate(prior),
            diffusion=estimate(diffusion),
            reconstruction=estimate(reconstruction),
            steps=steps,
            steps_error=error,
            draws=draws,
        )
