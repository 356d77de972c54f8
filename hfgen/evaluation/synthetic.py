"""What a classifier learns from samples of a class-conditional model alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from hfgen.configs.evaluation import FeatureTrainingConfig
from hfgen.core.errors import HfgenError
from hfgen.core.processes import shared
from hfgen.core.random import Stream, seeded
from hfgen.core.statistics import standard_error
from hfgen.data.choice import ImageChoice
from hfgen.data.evaluation_images import EvaluationImages
from hfgen.data.loading import ImagesInMemory, Rows
from hfgen.drawing.sampler import Sampler
from hfgen.evaluation.features import Extractor
from hfgen.evaluation.samples import Draws
from hfgen.evaluation.train_features import fit, new_classifier
from hfgen.results import Metric, SyntheticResult

TRAINING = FeatureTrainingConfig(steps=600, batch_size=128, learning_rate=5e-3)
# suffix of its metric, in words what is learned from, images and their classes
Lesson = tuple[str, str, Rows, torch.Tensor]
NAME = "accuracy on real images of a classifier trained on"


@dataclass(frozen=True, kw_only=True)
class RealClasses:
    """Real images with the classes of a model, by its numbers.

    Attributes:
        reference: that classifiers are measured on.
        training: as many as there are samples, at most, for the floor.
    """

    names: Sequence[str]
    reference: EvaluationImages
    labels: torch.Tensor
    training: EvaluationImages
    training_labels: torch.Tensor

    @property
    def digests(self) -> tuple[str, str]:
        """Of both."""
        return self.reference.digest, self.training.digest


def no_classes(sampler: Sampler) -> str | None:
    """Why no classifier can be trained on samples; None where one can."""
    return None if sampler.class_names else "told no classes"


def real_classes(
    draws: Draws, shape: tuple[int, int, int], images: ImageChoice, train_split: str | None, whose: str
) -> RealClasses:
    """The images of both splits; `HfgenError` for a model without classes, and for images that have not its classes."""
    names, reason = draws.sampler.class_names, no_classes(draws.sampler)
    if names is None or reason is not None:
        raise HfgenError(f"classifier_accuracy: {whose} is {reason}, its samples teach no classifier: leave it out")
    parts = (images.held_out, images.training(train_split))
    reference = parts[0].load(shape, draws.device)
    training = parts[1].load(shape, draws.device, choose=_some(draws))
    of_model = [_numbers(data, names, part.name) for data, part in zip((reference, training), parts, strict=True)]
    return RealClasses(
        names=names, reference=reference, labels=of_model[0], training=training, training_labels=of_model[1]
    )


def _some(draws: Draws) -> Callable[[int], torch.Tensor]:
    """As many rows as there are samples, of all classes."""

    def choose(count: int) -> torch.Tensor:
        order = torch.randperm(count, generator=seeded("cpu", draws.seed, Stream.ORDER, 4))
        return order[: draws.count].sort().values

    return choose


def _numbers(data: EvaluationImages, names: Sequence[str], name: str) -> torch.Tensor:
    """The classes of images by a model's numbers, int64 (N,)."""
    if data.labels is None or not set(data.class_names) <= set(names):
        raise HfgenError(
            f"classifier_accuracy: {name} has not the model's classes ({', '.join(names)}): name their column with "
            "--label_column, or leave it out"
        )
    return torch.tensor([list(names).index(each) for each in data.class_names])[data.labels]


def evaluate_synthetic(draws: Draws, real: RealClasses, shape: tuple[int, int, int]) -> SyntheticResult:
    """The accuracy of a small classifier on real images after a training on samples alone, and on as many real ones, the floor.

    Both have the same weights to begin with, the same steps, and images turned, stretched and shifted as `hfgen train-features`
    has them.

    Source: Ravuri & Vinyals 2019, section 3 (classification accuracy score).
    """
    images, seconds = draws.images()
    labels = draws.sampler.labels(draws.count)
    assert labels is not None
    start = time.perf_counter()
    lessons = (
        ("", "samples alone", ImagesInMemory(images.to(draws.device)), labels),
        ("_floor", f"{len(real.training.images):,} real images, the floor", real.training.images, real.training_labels),
    )

    def taught(own: Sequence[Lesson]) -> Iterator[Metric]:
        for _, words, rows, classes in own:
            network = new_classifier(shape[:2], real.names, seed=draws.seed, device=draws.device, name="classifier")
            fit(network, rows, classes, replace(TRAINING, seed=draws.seed), flip=False)
            yield accuracy(network, real, f"{NAME} {words}")

    metrics = {f"synthetic_accuracy{suffix}": metric for (suffix, *_), metric in shared(lessons, taught)}
    return SyntheticResult(
        count=draws.count,
        reference=len(real.reference.images),
        how=draws.sampler.how,
        metrics=metrics,
        seconds_sampling=seconds,
        seconds_measuring=time.perf_counter() - start,
    )


def accuracy(network: Extractor, real: RealClasses, name: str) -> Metric:
    """The share of the real images that a classifier of the model's classes takes for what they are."""
    probabilities = network(real.reference.images).probabilities
    assert probabilities is not None
    right = (probabilities.argmax(1) == real.labels).double()
    return Metric(name=name, mean=right.mean().item(), standard_error=standard_error(right))
