"""The quality of samples while a model is trained, by a few hundred of them."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from tqdm.auto import tqdm

from hfgen.configs.training import TrainingConfig
from hfgen.core.errors import HfgenError
from hfgen.core.random import Stream, seeded
from hfgen.data.evaluation_images import EvaluationImages
from hfgen.data.loading import ImagesInMemory
from hfgen.data.training_set import TrainingSet
from hfgen.drawing.draw import draw_samples
from hfgen.drawing.sampler import Sampler
from hfgen.evaluation.features import Extractor, Features
from hfgen.evaluation.networks import load_feature_network
from hfgen.evaluation.quality import frechet_distance, kernel_distance
from hfgen.evaluation.samples import without_frechet
from hfgen.families.base import Family

COUNT, STEPS, LEAST = 500, 20, 4


@dataclass(frozen=True, kw_only=True)
class SampleQuality:
    """Measures 500 samples against held-out images, the same noise each time, so that values of a training can be compared.

    Attributes:
        data: 500 held-out images at most, drawn by seed.
        reference: of these.
    """

    family: Family
    network: Extractor
    data: EvaluationImages
    reference: Features
    seed: int
    batch_size: int

    def __call__(self, pipeline: Any) -> dict[str, float]:
        """Of a pipeline: "frechet", where there are more images than features, and "kid"."""
        samples = draw_samples(
            self._sampler(pipeline),
            device=self.family.module(pipeline).device,
            num_images=COUNT,
            seed=self.seed,
            batch_size=self.batch_size,
            show_progress=False,
        )
        found = self.network(ImagesInMemory(samples.images), show_progress=False)
        values = {"kid": kernel_distance(found, self.reference).mean}
        if min(COUNT, len(self.reference)) > self.network.num_features:
            values = {"frechet": frechet_distance(found, self.reference), **values}
        return values

    def _sampler(self, pipeline: Any) -> Sampler:
        """The default one, in 20 steps if it would take more."""
        options = self.family.sampling_on(self.family.sampling_options(), self.data)
        sampler = self.family.sampler(pipeline, options)
        if sampler.calls > STEPS and any(item.name == "steps" for item in fields(options)):
            return self.family.sampler(pipeline, replace(options, steps=STEPS))
        return sampler


def sample_quality(
    config: TrainingConfig, family: Family, images: TrainingSet, device: torch.device
) -> SampleQuality | None:
    """What `--eval_epochs` asks for; None without it.

    Raises `HfgenError` for features that cannot be loaded or do not take such images, for features without `--eval_epochs`, and for
    fewer than 4 held-out images.
    """
    run, optimization = config.run, config.optimization
    if not run.eval_epochs:
        if run.features is not None:
            raise HfgenError(f"features={run.features!r}: only with --eval_epochs, such as --eval_epochs 10")
        return None
    held_out = images.validation
    if len(held_out) < LEAST:
        raise HfgenError(f"eval_epochs: {len(held_out)} held-out images are too few; use {LEAST} or more")
    network = load_feature_network(run.features, device)
    order = torch.randperm(len(held_out), generator=seeded("cpu", optimization.seed, Stream.ORDER, 0))
    chosen = order[:COUNT].sort().values
    if len(chosen) <= network.num_features:
        tqdm.write(f"hfgen: {without_frechet(len(chosen), network.num_features)}", file=sys.stderr)
    data = EvaluationImages(
        images=ImagesInMemory(torch.cat(list(held_out.batches([chosen])))),
        labels=None if images.labels is None else images.labels[chosen],
        class_names=images.class_names,
        companions=images.companions.some(chosen),
    )
    return SampleQuality(
        family=family,
        network=network,
        data=data,
        reference=network(data.images, show_progress=False),
        seed=optimization.seed,
        batch_size=optimization.eval_batch_size,
    )
