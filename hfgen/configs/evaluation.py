"""What to measure of a trained model, and on which images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hfgen.configs.flags import NOT_NEGATIVE, POSITIVE, at_least, flag
from hfgen.configs.sampling import COMPILE

COMPARED_SAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured on which images; what is the family's own stands in `options`.

    Attributes:
        options: values of the family's `likelihood_options` and `sampling_options`, by name, such as {"evaluations": 30_000}.
    """

    dataset_name: str = flag("ylecun/mnist", "repository, local folder, or digits")
    dataset_config_name: str | None = flag(None, "configuration of the dataset")
    split: str = flag("test", "split of the images")
    train_split: str = flag("train", "split whose images set the floor of --samples")
    max_images: int | None = flag(None, "images for the likelihood at most, the first ones; none: all", range=POSITIVE)
    likelihood: bool = flag(False, "likelihood or bounds on it; measured too when --samples is not given")
    samples: int | None = flag(None, "images to draw for Frechet distance, precision and recall", range=at_least(2))
    features: str | None = flag(
        None, "image classifier of transformers for --samples; none: one of digits, shipped with hfgen"
    )
    compile: bool = flag(False, f"for --samples: {COMPILE}")
    batch_size: int | None = flag(None, "images at once; none: by model and device", range=POSITIVE, identity=False)
    seed: int = flag(0, "of noise, times and samples", range=NOT_NEGATIVE)
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FiguresConfig:
    """Which images the pictures of a model are drawn of."""

    dataset_name: str = flag("ylecun/mnist", "repository, local folder, or digits")
    dataset_config_name: str | None = flag(None, "configuration of the dataset")
    split: str = flag("test", "split of the images")
    max_images: int | None = flag(None, "images to use at most, the first ones; none: all", range=POSITIVE)
    seed: int = flag(0, "of the samples", range=NOT_NEGATIVE)


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
