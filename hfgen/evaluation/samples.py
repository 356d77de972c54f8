"""The quality of a model's samples, with the floor that real images set."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import islice

import torch

from hfgen.configs.evaluation import EvaluationConfig
from hfgen.core.errors import HfgenError
from hfgen.core.media import CLIPS
from hfgen.core.processes import on_first, tell
from hfgen.core.random import Stream, seeded
from hfgen.core.resume import Resumable
from hfgen.core.statistics import standard_error
from hfgen.data.choice import ImageChoice, choose_images
from hfgen.data.evaluation_images import EvaluationImages
from hfgen.data.loading import ImagesInMemory, Rows
from hfgen.drawing.draw import Drawing
from hfgen.drawing.sampler import Sampler
from hfgen.evaluation.clips import measured_clips
from hfgen.evaluation.features import Extractor, Features
from hfgen.evaluation.neighbours import Nearest, distance_metrics, nearest_training_images
from hfgen.evaluation.quality import NEIGHBOURS, class_frequencies, frechet_distance, kernel_distance, precision_recall
from hfgen.results import Metric, SamplePictures, SampleResult

CHUNK = 512
SHOWN = 64
MOST_NEIGHBOURS = 100_000
FLOOR_WORDS = ", floor: training images"
More = Callable[[torch.Tensor, Callable[[Sampler], torch.Tensor]], dict[str, Metric]]


@dataclass(frozen=True, kw_only=True)
class Draws:
    """`count` images of a sampler, drawn in parts that survive a break: image i depends on the seed and i alone.

    Attributes:
        drawn: as many at least, and the seconds that they took, where they were drawn before.
    """

    sampler: Sampler
    device: torch.device
    count: int
    seed: int
    batch_size: int
    resumable: Resumable
    drawn: tuple[torch.Tensor, float] | None = field(default=None, repr=False)

    def images(self) -> tuple[torch.Tensor, float]:
        """uint8 (count, C, H, W) and the seconds that they took."""
        if self.drawn is not None:
            images, seconds = self.drawn
            return images[: self.count], seconds * self.count / len(images)
        chunks = [range(first, min(first + CHUNK, self.count)) for first in range(0, self.count, CHUNK)]
        found = {chunk: self.resumable.load(_name(chunk)) for chunk in chunks}
        drawn = dict(self._drawn([chunk for chunk, kept in found.items() if kept is None]))
        parts = [drawn[chunk] if kept is None else kept for chunk, kept in found.items()]
        return torch.cat([part["images"] for part in parts]), sum(part["seconds"].item() for part in parts)

    def _drawn(self, chunks: list[range]) -> Iterator[tuple[range, dict[str, torch.Tensor]]]:
        """Chunks that were not kept, which now are."""
        drawing = Drawing(sampler=self.sampler, device=self.device, seed=self.seed, batch_size=self.batch_size)
        parts = [part for chunk in chunks for part in drawing.parts(chunk.start, len(chunk))]
        if parts:
            drawing.warm_up(parts[0])
        batches, since = drawing.batches(parts), time.perf_counter()
        for chunk in chunks:
            count = len(drawing.parts(chunk.start, len(chunk)))
            images = torch.cat([pixels for _, pixels in islice(batches, count)])
            found = {"images": images, "seconds": torch.tensor(time.perf_counter() - since)}
            self.resumable.save(_name(chunk), found)
            since = time.perf_counter()
            yield chunk, found
        next(batches, None)

    def by(self, sampler: Sampler) -> torch.Tensor:
        """As many from the same seeds, by another sampler."""
        return replace(self, sampler=sampler, resumable=self.resumable.under("other"), drawn=None).images()[0]


def _name(chunk: range) -> str:
    """Under which a chunk is kept."""
    return f"samples-{chunk.start:07d}"


@dataclass(frozen=True, kw_only=True)
class RealImages:
    """Features of images of the split that samples are held against, and of the training split, which set the floor.

    Attributes:
        fingerprint: of the first ones' data.
        digests: of both.
        data: the first ones.
        shown: 64 of the first ones at most, uint8.
        training: loads the training images, 100,000 at most, among which the nearest neighbours of samples are sought.
    """

    reference: Features
    floor: Features
    fingerprint: str
    digests: tuple[str, str]
    data: EvaluationImages = field(repr=False)
    shown: torch.Tensor = field(repr=False)
    training: Callable[[], Rows] = field(repr=False)


def real_images(
    draws: Draws,
    network: Extractor,
    shape: tuple[int, ...],
    config: EvaluationConfig,
    images: ImageChoice | None = None,
) -> RealImages:
    """As many images of each split as there are samples, drawn without replacement; all, if it has fewer.

    `images` are by default those that `config` names. Raises `HfgenError` for no more samples or images than neighbours, and as
    `Selection.load`.
    """
    _check_enough(f"--samples {draws.count}", draws.count)
    images = images or choose_images(config, {})
    parts = (images.held_out, images.training(config.train_split))
    chosen = [part.load(shape, network.device, choose=_some(draws, key)) for key, part in enumerate(parts)]
    for part, data in zip(parts, chosen, strict=True):
        _check_enough(f"{len(data.images)} images of {part.name}", len(data.images))
    few = min(draws.count, *(len(data.images) for data in chosen))
    if few <= network.num_features:
        tell(without_frechet(few, network.num_features))
    reference, floor = chosen
    show = getattr(draws.sampler, "show", None)
    if show is not None:
        show(reference.images)
    return RealImages(
        reference=network(reference.images),
        floor=network(floor.images),
        fingerprint=reference.fingerprint,
        digests=(reference.digest, floor.digest),
        data=reference,
        shown=_shuffled(reference.images, draws.seed),
        training=lambda: parts[1].load(shape, network.device, choose=_most(draws.seed)).images,
    )


def without_frechet(count: int, num_features: int) -> str:
    """Why so few images have no Frechet distance."""
    return (
        f"{count} images are too few for the Frechet distance of {num_features} features, whose covariance would be singular: "
        f"it is left out; use more than {num_features}, better ten times as many"
    )


def _some(draws: Draws, key: int) -> Callable[[int], torch.Tensor]:
    """As many rows as there are samples."""

    def choose(count: int) -> torch.Tensor:
        order = torch.randperm(count, generator=seeded("cpu", draws.seed, Stream.ORDER, key))
        return order[: draws.count].sort().values

    return choose


def _most(seed: int) -> Callable[[int], torch.Tensor]:
    """All rows, of more than 100,000 so many."""

    def choose(count: int) -> torch.Tensor:
        if count <= MOST_NEIGHBOURS:
            return torch.arange(count)
        order = torch.randperm(count, generator=seeded("cpu", seed, Stream.ORDER, 2))
        return order[:MOST_NEIGHBOURS].sort().values

    return choose


def _shuffled(images: Rows, seed: int) -> torch.Tensor:
    """64 at most, at random: rows may be sorted by class."""
    order = torch.randperm(len(images), generator=seeded("cpu", seed, Stream.ORDER, 3))[:SHOWN]
    return next(iter(images.batches([order]))).cpu()


def evaluate_samples(
    draws: Draws, network: Extractor, real: RealImages, more: More | None = None
) -> tuple[SampleResult, SamplePictures]:
    """Frechet and kernel distance, precision and recall, class balance and confidence of samples against real images.

    The same numbers for images of the training split in place of the samples are the floor: what a perfect model would reach.
    `more` is `Family.sample_metrics` but for its first two arguments.

    Returns them and what there is to see: the first 64 images, real ones, and training images nearest to the first.
    """
    images, seconds = draws.images()
    start, training = time.perf_counter(), cache(real.training)
    generated = network(ImagesInMemory(images))
    metrics = on_first(
        lambda: quality_metrics(generated, real.reference, real.floor, network.name, is_fid=network.is_fid)
    )
    own = {} if more is None else more(images, draws.by)
    if images.ndim == CLIPS:
        own |= measured_clips(images, training(), draws.sampler, draws.by, network, real.reference)
    nearest, of_real = on_first(lambda: [nearest_training_images(x, training()) for x in (images[:SHOWN], real.shown)])
    result = SampleResult(
        count=draws.count,
        reference=len(real.reference),
        how=draws.sampler.how,
        features=network.name,
        num_features=network.num_features,
        training_images=on_first(lambda: len(training())),
        classes=_classes(generated, real.reference, network.class_names),
        metrics=metrics | _accuracy(generated, draws, network) | own | distance_metrics(nearest, of_real),
        seconds_sampling=seconds,
        seconds_measuring=time.perf_counter() - start,
    )
    return result, _pictures(draws, images[:SHOWN], real, nearest)


def _pictures(draws: Draws, images: torch.Tensor, real: RealImages, nearest: Nearest) -> SamplePictures:
    labels, names = draws.sampler.labels(len(images)), draws.sampler.class_names
    told = None if labels is None or names is None else tuple(names[i] for i in labels.tolist())
    return SamplePictures(samples=images, real=real.shown, nearest=nearest.images, labels=told)


def _classes(generated: Features, reference: Features, names: list[str]) -> dict[str, list]:
    if not names:
        return {}
    return {
        "names": names,
        "samples": class_frequencies(generated).tolist(),
        "reference": class_frequencies(reference).tolist(),
    }


def _check_enough(what: str, count: int) -> None:
    if count <= NEIGHBOURS:
        raise HfgenError(
            f"{what}: too few for {NEIGHBOURS} neighbours, of precision and recall; use more than {NEIGHBOURS}"
        )


def _accuracy(generated: Features, draws: Draws, network: Extractor) -> dict[str, Metric]:
    """Of class-conditional samples: the share that the classifier takes for the class asked for, in all and by class.

    Empty where the model has no classes, or others than the classifier.
    """
    names, labels = draws.sampler.class_names, draws.sampler.labels(draws.count)
    probabilities, numbers = generated.probabilities, network.numbers_of(names)
    if labels is None or names is None or probabilities is None or numbers is None:
        return {}
    if len(probabilities) != len(labels):  # of clips, whose frames have a measure of their own
        return {}
    right = (probabilities.argmax(1) == numbers[labels]).double()
    shares = {"": right, **{name: right[labels == i] for i, name in enumerate(names)}}
    return {
        f"class_accuracy{'_' * bool(name)}{name.replace(' ', '_')}": Metric(
            name=f"share that the classifier takes for the class asked for{f', class {name}' if name else ''}",
            mean=values.mean().item(),
            standard_error=standard_error(values),
        )
        for name, values in shares.items()
        if len(values)
    }


def quality_metrics(
    generated: Features, reference: Features, floor: Features, name: str, *, is_fid: bool = False
) -> dict[str, Metric]:
    """Metrics by their keys; `floor` are features of real images that take the samples' place.

    The Frechet distance is left out where there are too few images for it in any of the three, and what needs classes where the
    network has none. `is_fid` says that the features are those of the FID.
    """
    metrics = {}
    few = min(map(len, (generated, reference, floor)))
    for kind, features, words in (("", generated, ""), ("_floor", floor, FLOOR_WORDS)):
        found = {} if few <= reference.features.shape[1] else {"frechet": _frechet(features, reference, name, is_fid)}
        found |= _others(features, reference, name, is_fid) | _of_classes(features, reference)
        for key, metric in found.items():
            metrics[f"{key}{kind}"] = Metric(
                name=f"{metric.name}{words}", mean=metric.mean, standard_error=metric.standard_error
            )
    return metrics


def _frechet(features: Features, reference: Features, name: str, is_fid: bool) -> Metric:
    label = "FID" if is_fid else f"Frechet distance of {name} features (not FID)"
    return Metric(name=label, mean=frechet_distance(features, reference))


def _others(features: Features, reference: Features, name: str, is_fid: bool) -> dict[str, Metric]:
    kernel = kernel_distance(features, reference)
    precision, recall = precision_recall(features, reference)
    label = "KID" if is_fid else f"kernel distance of {name} features (not KID)"
    return {
        "kid": Metric(name=label, mean=kernel.mean, standard_error=kernel.standard_error),
        "precision": Metric(name="precision", mean=precision),
        "recall": Metric(name="recall", mean=recall),
    }


def _of_classes(features: Features, reference: Features) -> dict[str, Metric]:
    if features.probabilities is None:
        return {}
    shift = (class_frequencies(features) - class_frequencies(reference)).abs().sum().item() / 2
    confidence = features.probabilities.max(1).values.mean().item()
    return {
        "class_shift": Metric(name="share of images in another class than the reference's", mean=shift),
        "confidence": Metric(name="mean confidence of the classifier", mean=confidence),
    }
