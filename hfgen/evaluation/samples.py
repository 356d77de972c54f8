"""The quality of a model's samples, with the floor that real images set."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from hfgen.configs.evaluation import EvaluationConfig
from hfgen.core.errors import HfgenError
from hfgen.core.random import Stream, seeded
from hfgen.core.resume import Resumable
from hfgen.data.evaluation_images import EvaluationImages, load_evaluation_images
from hfgen.data.loading import ImagesInMemory
from hfgen.drawing.draw import draw_samples
from hfgen.drawing.sampler import Sampler
from hfgen.evaluation.features import FeatureNetwork, Features
from hfgen.evaluation.quality import class_frequencies, frechet_distance, precision_recall
from hfgen.results import Metric, SampleResult

CHUNK = 512
SHOWN = 64


@dataclass(frozen=True, kw_only=True)
class Draws:
    """`count` images of a sampler, drawn in parts that survive a break: image i depends on the seed and i alone."""

    sampler: Sampler
    device: torch.device
    count: int
    seed: int
    batch_size: int
    resumable: Resumable

    def images(self) -> tuple[torch.Tensor, float]:
        """uint8 (count, C, H, W) and the seconds that they took."""
        parts, seconds = [], 0.0
        for first in range(0, self.count, CHUNK):
            name = f"samples-{first:07d}"
            part = self.resumable.load(name)
            if part is None:
                samples = draw_samples(
                    self.sampler,
                    device=self.device,
                    num_images=min(CHUNK, self.count - first),
                    seed=self.seed,
                    batch_size=self.batch_size,
                    first=first,
                )
                part = {"images": samples.images, "seconds": torch.tensor(samples.seconds)}
                self.resumable.save(name, part)
            parts.append(part["images"])
            seconds += part["seconds"].item()
        return torch.cat(parts), seconds


@dataclass(frozen=True, kw_only=True)
class RealImages:
    """Features of images of the split that samples are held against, and of the training split, which set the floor.

    `fingerprint` is that of the first ones' data, `digests` are those of both.
    """

    reference: Features
    floor: Features
    fingerprint: str
    digests: tuple[str, str]


def real_images(
    draws: Draws, network: FeatureNetwork, shape: tuple[int, int, int], config: EvaluationConfig
) -> RealImages:
    """As many images of each split as there are samples, drawn without replacement; all, if it has fewer.

    Raises `HfgenError` for fewer samples or images than features, and as `load_evaluation_images`.
    """
    _check_enough(f"--samples {draws.count}", draws.count, network)
    splits = (config.split, config.train_split)
    chosen = [_images_of_split(draws, network, shape, config, split, key) for key, split in enumerate(splits)]
    for split, data in zip(splits, chosen, strict=True):
        _check_enough(f"{len(data.images)} images of split {split!r}", len(data.images), network)
    reference, floor = chosen
    return RealImages(
        reference=network(reference.images),
        floor=network(floor.images),
        fingerprint=reference.fingerprint,
        digests=(reference.digest, floor.digest),
    )


def _images_of_split(
    draws: Draws,
    network: FeatureNetwork,
    shape: tuple[int, int, int],
    config: EvaluationConfig,
    split: str,
    key: int,
) -> EvaluationImages:
    """As many images of a split as there are samples."""

    def choose(count: int) -> torch.Tensor:
        order = torch.randperm(count, generator=seeded("cpu", draws.seed, Stream.ORDER, key))
        return order[: draws.count].sort().values

    return load_evaluation_images(
        config.dataset_name,
        split,
        shape=shape,
        device=network.device,
        dataset_config_name=config.dataset_config_name,
        choose=choose,
    )


def evaluate_samples(draws: Draws, network: FeatureNetwork, real: RealImages) -> tuple[SampleResult, torch.Tensor]:
    """Frechet distance, precision and recall, class balance and confidence of samples against real images.

    The same numbers for images of the training split in place of the samples are the floor: what a perfect model would reach.

    Returns them and the first 64 images, uint8.
    """
    images, seconds = draws.images()
    start = time.perf_counter()
    generated = network(ImagesInMemory(images))
    metrics = quality_metrics(generated, real.reference, real.floor, network.name)
    result = SampleResult(
        count=draws.count,
        reference=len(real.reference),
        how=draws.sampler.how,
        features=network.name,
        classes={
            "names": network.class_names,
            "samples": class_frequencies(generated).tolist(),
            "reference": class_frequencies(real.reference).tolist(),
        },
        metrics=metrics | _accuracy(generated, draws, network),
        seconds_sampling=seconds,
        seconds_measuring=time.perf_counter() - start,
    )
    return result, images[:SHOWN]


def _check_enough(what: str, count: int, network: FeatureNetwork) -> None:
    if count <= network.num_features:
        raise HfgenError(
            f"{what}: too few for {network.num_features} features, whose covariance would be singular; "
            f"use more than {network.num_features}, better ten times as many"
        )


def _accuracy(generated: Features, draws: Draws, network: FeatureNetwork) -> dict[str, Metric]:
    """Of class-conditional samples: the share that the classifier takes for the class asked for, in all and by class.

    Empty where the model has no classes, or others than the classifier.
    """
    names, labels = draws.sampler.class_names, draws.sampler.labels(draws.count)
    if labels is None or names is None or len(names) != len(network.class_names):
        return {}
    right = (generated.probabilities.argmax(1) == labels).double()
    shares = {"": right, **{name: right[labels == i] for i, name in enumerate(names)}}
    return {
        f"class_accuracy{'_' * bool(name)}{name.replace(' ', '_')}": Metric(
            name=f"share that the classifier takes for the class asked for{f', class {name}' if name else ''}",
            mean=values.mean().item(),
        )
        for name, values in shares.items()
        if len(values)
    }


def quality_metrics(generated: Features, reference: Features, floor: Features, name: str) -> dict[str, Metric]:
    """Metrics by their keys; `floor` are features of real images that take the samples' place."""
    metrics = {}
    for kind, features, words in (("", generated, ""), ("_floor", floor, ", floor: training images")):
        precision, recall = precision_recall(features, reference)
        shift = (class_frequencies(features) - class_frequencies(reference)).abs().sum().item() / 2
        confidence = features.probabilities.max(1).values
        values = {
            "frechet": (f"Frechet distance of {name} features (not FID){words}", frechet_distance(features, reference)),
            "precision": (f"precision{words}", precision),
            "recall": (f"recall{words}", recall),
            "class_shift": (f"share of images in another class than the reference's{words}", shift),
            "confidence": (f"mean confidence of the classifier{words}", confidence.mean().item()),
        }
        metrics |= {f"{key}{kind}": Metric(name=label, mean=value) for key, (label, value) in values.items()}
    return metrics
