"""What to measure of a trained model, and on which images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hfgen.configs.flags import NOT_NEGATIVE, POSITIVE, at_least, flag
from hfgen.configs.sampling import COMPILE

COMPARED_SAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class MeasuredData:
    """Which images a model is measured on: by default those that its training held out.

    Attributes:
        dataset: from Python alone, a Dataset or DatasetDict instead of those that the flags name.
    """

    dataset_name: str | None = flag(
        None, "repository, local folder or file, or digits; none: the images that the model's training held out"
    )
    dataset_config_name: str | None = flag(None, "configuration of the dataset")
    train_data_dir: str | None = flag(
        None, "local folder of image files, or whatever datasets reads there, instead of dataset_name"
    )
    cache_dir: str | None = flag(None, "where datasets keeps what it downloads", identity=False)
    image_column: str | None = flag(None, "column of the images; none: the first image column")
    label_column: str | None = flag(
        None, "column of the classes, also of strings or integers; none: the first ClassLabel column, if any"
    )
    split: str | None = flag(None, "split of the images; none: test, or what the training held out")
    resolution: int | None = flag(
        None, "resize and cut images as the trainers do, to the model's size; none: they must have it", range=POSITIVE
    )
    background: str | None = flag(None, "colour behind what is transparent; none: the training's, or white")
    dataset: Any = field(default=None, repr=False, metadata={"identity": False})


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(MeasuredData):
    """What is measured on which images; what is the family's own stands in `options`.

    Attributes:
        options: values of the family's `likelihood_options` and `sampling_options`, by name, such as {"evaluations": 30_000}.
    """

    train_split: str | None = flag(
        None, "split whose images set the floor of --samples; none: train, or what the model was trained on"
    )
    max_images: int | None = flag(
        None, "images for the likelihood at most, drawn with the classes in proportion; none: all", range=POSITIVE
    )
    likelihood: bool | None = flag(
        None, "likelihood or bounds on it; none: where nothing else is asked for, and in a comparison"
    )
    samples: int | None = flag(None, "images to draw for Frechet distance, precision and recall", range=at_least(2))
    classifier_accuracy: int | None = flag(
        None,
        "samples of a class-conditional model on which alone a small classifier is trained, to be measured on real images",
        range=at_least(2),
    )
    features: str | None = flag(
        None,
        "network for --samples: digits (shipped), inception (the FID's), dinov2, clip, a folder such as train-features makes, or "
        "a repository; none: digits",
    )
    compile: bool = flag(False, f"for samples: {COMPILE}")
    batch_size: int | None = flag(None, "images at once; none: by model and device", range=POSITIVE, identity=False)
    seed: int = flag(0, "of noise, times and samples", range=NOT_NEGATIVE)
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FiguresConfig(MeasuredData):
    """Which images the pictures of a model are drawn of."""

    max_images: int | None = flag(
        None, "images to use at most, drawn with the classes in proportion; none: all", range=POSITIVE
    )
    seed: int = flag(0, "of the samples", range=NOT_NEGATIVE)


@dataclass(frozen=True, kw_only=True)
class FeatureTrainingConfig:
    """How a small classifier is trained whose features samples are measured with."""

    output_dir: str = flag("features", "folder of the classifier, to name as --features")
    overwrite: bool = flag(False, "replace a classifier that is there already")
    steps: int = flag(1500, "optimizer steps, some minutes on a CPU", range=POSITIVE)
    batch_size: int = flag(128, "images at once", range=POSITIVE)
    learning_rate: float = flag(5e-3, "the highest, of AdamW in one rise and fall", range=POSITIVE)
    seed: int = flag(0, "decides weights, order and deformations", range=NOT_NEGATIVE)


@dataclass(frozen=True, kw_only=True)
class ComparisonConfig:
    """Several models on the same images; options that a family has not are for the others.

    Attributes:
        models: folders or repositories.
        evaluation: what is measured of each.
        repeat: timings of a sample, of which the median is taken.
    """

    models: tuple[str, ...]
    evaluation: EvaluationConfig
    repeat: int = flag(3, "timings of which the median is taken", range=POSITIVE)
