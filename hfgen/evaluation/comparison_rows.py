"""What a comparison tells of each model, row by row, and what each row means."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from hfgen.results import EvaluationResult, TrainingRecord

NOTHING = "–"
# at the end of what `device_name` says of a CPU
THREADS = re.compile(r", (\d+) threads?$")
NATS = "The negative log-likelihood of a held-out image in nats, lower is better"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A model of the comparison.

    Attributes:
        training: what its trainer wrote, if it did.
        pictures: paths of those of `pictures_beside` that there are.
        likelihood: of what kind it is, in words.
        no_accuracy: why no classifier was trained on its samples; "" where one was, or none was asked for.
    """

    name: str
    result: EvaluationResult
    training: TrainingRecord | None
    pictures: Mapping[str, Path]
    likelihood: str = ""
    no_accuracy: str = ""


Show = Callable[[Entry], str | None]


class Property(NamedTuple):
    """A row: its label, what it shows of an entry, and what that means, in a sentence."""

    label: str
    show: Show
    meaning: str


def comparison_rows(entries: list[Entry]) -> list[list[str]]:
    """A row of texts for each property, the first for the names."""
    rows = [["", *(entry.name for entry in entries)]]
    rows += [[_label(each.label, entries), *(each.show(entry) or NOTHING for entry in entries)] for each in PROPERTIES]
    return [row for row in rows if any(not cell.startswith(NOTHING) for cell in row[1:])]


def explanations(rows: list[list[str]]) -> dict[str, str]:
    """A sentence for each row of `comparison_rows`, by its label."""
    told = {OF_FID.get(each.label, each.label): each.meaning for each in PROPERTIES}
    told |= {each.label: each.meaning for each in PROPERTIES}
    return {row[0]: told[row[0]] for row in rows if row[0]}


# of the FID's own features the distances have names
OF_FID = {"Frechet distance (not FID)": "FID", "kernel distance (not KID)": "KID"}


def _label(label: str, entries: list[Entry]) -> str:
    metrics = [entry.result.metrics.get("frechet") or entry.result.metrics.get("kid") for entry in entries]
    is_fid = any(metric is not None and metric.name in OF_FID.values() for metric in metrics)
    return OF_FID.get(label, label) if is_fid else label


def _kind(entry: Entry) -> str:
    part = entry.result.likelihood
    steps = None if part is None else part.facts.get("T")
    return entry.result.kind if steps is None else f"{entry.result.kind}, T = {steps}"


def _measured(entry: Entry) -> str | None:
    part = entry.result.likelihood
    return None if part is None else f"{part.quantity} ({part.likelihood})"


def _headline(role: str, unit: str, digits: int) -> Show:
    def show(entry: Entry) -> str | None:
        metric = entry.result.headline(role, unit)
        if metric is None:
            return None
        withheld = " (class withheld)" if role == "bound" and entry.result.class_withheld else ""
        return f"{metric.text(digits).removesuffix(f' {unit}')}{withheld}"

    return show


def _quality(key: str, digits: int | None) -> Show:
    def show(entry: Entry) -> str | None:
        metrics = entry.result.metrics
        if key not in metrics:
            return None
        floor = metrics.get(f"{key}_floor")
        beside = "" if floor is None else f" (floor {replace(floor, standard_error=None).text(digits or 3)})"
        return f"{metrics[key].text(digits)}{beside}"

    return show


def _samples(entry: Entry) -> str | None:
    drawn = entry.result.samples
    return None if drawn is None else f"{drawn.count:,}, {drawn.how}"


def _seconds_of(batch: int) -> Show:
    def show(entry: Entry) -> str | None:
        times = entry.result.seconds_per_sample
        return None if times is None else f"{times[str(batch)]:.2g} s"

    return show


def _evaluations(entry: Entry) -> str | None:
    count = entry.result.evaluations_per_sample
    return None if count is None else f"{count:g}"


def _likelihood(entry: Entry) -> str | None:
    return entry.likelihood or None


def _accuracy(entry: Entry) -> str | None:
    """Of samples alone; where there is none, why."""
    return f"{NOTHING} ({entry.no_accuracy})" if entry.no_accuracy else _quality("synthetic_accuracy", 3)(entry)


def _cpu_minutes(entry: Entry) -> str | None:
    """Where they were not measured, what the threads can have taken at most by the clock."""
    training = entry.training
    if training is None:
        return None
    if training.cpu_seconds is not None:
        return f"{training.cpu_seconds / 60:,.0f}"
    threads = THREADS.search(training.run_metadata["device"])
    if threads is None:
        return None
    return f"at most {training.seconds * int(threads[1]) * training.processes / 60:,.0f}"


def _training_time(entry: Entry) -> str | None:
    if entry.training is None:
        return None
    return f"{entry.training.seconds / 60:.0f} min ({entry.training.run_metadata['device']})"


PROPERTIES: tuple[Property, ...] = (
    Property("kind", _kind, "What kind of model it is, with the steps T of its chain where it has one."),
    Property(
        "parameters",
        lambda entry: f"{entry.result.parameters:,}",
        "Numbers that a training has set in the network that draws.",
    ),
    Property(
        "likelihood",
        _likelihood,
        "Whether the model can say how probable an image is: exactly, by a bound that the true value is not worse than, or not at all.",
    ),
    Property(
        "measured",
        _measured,
        "Which quantity the rows below are, with the last step of the model: only equal ones can be compared.",
    ),
    Property(
        "log-likelihood, negative, bits/dim",
        _headline("log-likelihood", "bits/dim", 3),
        "Bits that the model needs for each pixel value of a held-out image, exactly; lower is better, and 8 is no model at all.",
    ),
    Property(
        "bound, bits/dim",
        _headline("bound", "bits/dim", 3),
        "Bits for each pixel value of a held-out image at most, by the bound that the model is trained with; lower is better.",
    ),
    Property(
        "importance-weighted bound, bits/dim",
        _headline("importance-weighted bound", "bits/dim", 3),
        "The same by several draws of what is hidden, weighted: nearer to the truth, and still an upper bound.",
    ),
    Property("log-likelihood, negative, nats/image", _headline("log-likelihood", "nats/image", 2), f"{NATS}, exactly."),
    Property("bound, nats/image", _headline("bound", "nats/image", 2), f"{NATS}, at most."),
    Property(
        "importance-weighted bound, nats/image",
        _headline("importance-weighted bound", "nats/image", 2),
        f"{NATS}, at most, by several weighted draws of what is hidden.",
    ),
    Property(
        "bound of images given their class, bits/dim",
        _headline("conditional bound", "bits/dim", 3),
        "The bound of a model that is told the class of each image: not comparable with models that are not.",
    ),
    Property(
        "bound of images given their class, nats/image",
        _headline("conditional bound", "nats/image", 2),
        "The same in nats for an image.",
    ),
    Property("samples", _samples, "How many images were drawn for the rows below, and by which sampler."),
    Property(
        "Frechet distance (not FID)",
        _quality("frechet", 3),
        "How far apart samples and held-out images are, as two clouds of a network's features, each taken for a Gaussian; 0 is best.",
    ),
    Property(
        "kernel distance (not KID)",
        _quality("kid", None),
        "The same clouds compared by a kernel, without taking them for Gaussians; 0 is best, and chance can make it negative.",
    ),
    Property(
        "precision",
        _quality("precision", 3),
        "Fidelity: the share of samples that lie as near to held-out images as these lie to each other.",
    ),
    Property(
        "recall",
        _quality("recall", 3),
        "Diversity: the share of held-out images that lie as near to samples as these lie to each other; low where a model leaves "
        "kinds of images out.",
    ),
    Property(
        "share in another class than the reference's",
        _quality("class_shift", 3),
        "How many samples would have to be of another class for the classes to be as frequent as among held-out images.",
    ),
    Property(
        "classifier's mean confidence",
        _quality("confidence", 3),
        "How sure a classifier of real images is of the samples' classes; low where samples are of no class.",
    ),
    Property(
        "classifier accuracy on synthetic images alone",
        _accuracy,
        "The share of real held-out images that a small classifier gets right which has seen samples and their classes alone.",
    ),
    Property(
        "distance in pixels to the nearest training image",
        _quality("nearest_training", 1),
        "Root mean square difference, in grey levels, to the training image that is nearest; well below the floor it is a copy.",
    ),
    Property("training time", _training_time, "By the clock, and on which device."),
    Property(
        "training, CPU-minutes",
        _cpu_minutes,
        "Minutes of work of the processors, all cores together; of an earlier training on them the most that its threads can have done.",
    ),
    Property(
        "network evaluations a sample",
        _evaluations,
        "How often the network is asked for one image; guidance by classes or text asks twice in each step.",
    ),
    Property("per sample, one at a time", _seconds_of(1), "Seconds for one image, on the machine of this page."),
    Property("per sample, 64 at a time", _seconds_of(64), "Seconds an image where 64 are drawn at once."),
)
