"""All that is measured of a model, so that it can be broken off and taken up again."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hfgen.configs.evaluation import EvaluationConfig
from hfgen.core.errors import HfgenError
from hfgen.core.media import CLIPS, image_grid, labelled_grid, save_png
from hfgen.core.memory import check_fits, local_processes
from hfgen.core.metadata import run_metadata
from hfgen.core.overwrite import check_replaceable, is_picture
from hfgen.core.processes import on_first, tell
from hfgen.core.resume import Resumable
from hfgen.data.choice import ImageChoice, choose_images
from hfgen.data.evaluation_images import EvaluationImages
from hfgen.evaluation.features import Extractor
from hfgen.evaluation.networks import load_feature_network
from hfgen.evaluation.samples import Draws, RealImages, evaluate_samples, real_images
from hfgen.evaluation.synthetic import RealClasses, evaluate_synthetic, real_classes
from hfgen.families.base import Family, LikelihoodSettings, make_options
from hfgen.families.model import Model
from hfgen.results import EvaluationResult, Metric, SamplePictures

if TYPE_CHECKING:
    from PIL import Image

SAMPLE_BATCH = 64
COLUMNS_OF_NEIGHBOURS = 10
TERMS, SAMPLES, REAL, NEIGHBOURS = "terms", "samples", "real", "neighbours"


def evaluate_model(model: Model, config: EvaluationConfig, out: Path | None = None) -> EvaluationResult:
    """Measure what `config` asks for: the likelihood, the quality of samples, or both.

    Parts that are done are kept beside `out` until `write_results`. What is wrong with the options of samples is told before
    the likelihood is measured.

    Raises `HfgenError` for options that the model's family has not or that would do nothing, for images that do not fit the
    model, for what cannot be measured, and for numbers that are not finite.
    """
    _check_effect(config)
    return prepare(model, config).measure(out)


def _check_effect(config: EvaluationConfig) -> None:
    """Raise `HfgenError` for flags of what is not measured; a comparison may measure it of another model."""
    drawn = config.samples is not None or config.classifier_accuracy is not None
    if config.max_images is not None and drawn and not config.likelihood:
        raise HfgenError(
            f"max_images={config.max_images}: of the likelihood's images, and no likelihood is asked for: add --likelihood"
        )
    if config.train_split is not None and not drawn:
        raise HfgenError(f"train_split={config.train_split!r}: only with --samples, such as --samples 10000")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A model, what is measured of it, and the images for that.

    Attributes:
        images: where they come from.
        options: of the likelihood.
        data: for the likelihood, None where it is not measured.
        quality: for the quality of samples, None where it is not measured.
        synthetic: for a classifier of samples alone, None where none is trained.
    """

    model: Model
    config: EvaluationConfig
    images: ImageChoice
    options: Any
    data: EvaluationImages | None
    quality: tuple[Draws, Extractor, RealImages] | None
    synthetic: tuple[Draws, RealClasses] | None

    def settings(self) -> dict[str, Any]:
        """What results depend on, as JSON values: what is asked for, the model, and the images."""
        config = self.config
        names = [item.name for item in fields(config) if item.metadata.get("identity", True)]
        images = {
            "likelihood": None if self.data is None else self.data.digest,
            "samples": None if self.quality is None else self.quality[2].digests,
            "synthetic": None if self.synthetic is None else self.synthetic[1].digests,
        }
        features = None if self.quality is None else self.quality[1].digest()
        asked = {name: getattr(config, name) for name in names}
        found = {"images_digests": images, "features_digest": features}
        return json.loads(json.dumps(asked | found | self.model.identity()))

    def measure(self, out: Path | None) -> EvaluationResult:
        """The results; parts that are done are kept beside `out`."""
        resumable = Resumable(partial_folder(out), self.settings())
        try:
            result = self._measure(resumable)
        except HfgenError:
            resumable.finish_if_empty()
            raise
        try:
            check_finite(result, self.model.name)
        except HfgenError:
            resumable.finish()
            raise
        return result

    def _measure(self, resumable: Resumable) -> EvaluationResult:
        model, config, likelihood, samples, pictures, synthetic = self.model, self.config, None, None, None, None
        fingerprint, count = "", 0
        if self.data is not None:
            settings = LikelihoodSettings(
                options=self.options, seed=config.seed, batch_size=config.batch_size, resumable=resumable
            )
            likelihood = model.family.likelihood(model.pipeline, self.data, settings)
            fingerprint, count = self.data.fingerprint, len(self.data.images)
        drawn = self._drawn_once(resumable)
        if self.quality is not None:
            draws, network, real = self.quality
            more = partial(model.family.sample_metrics, model.pipeline, draws.sampler)
            samples, pictures = evaluate_samples(replace(draws, resumable=resumable, drawn=drawn), network, real, more)
            fingerprint, count = fingerprint or real.fingerprint, count or samples.reference
        if self.synthetic is not None:
            draws, classes = self.synthetic
            draws = replace(draws, resumable=resumable.under("synthetic"), drawn=drawn)
            synthetic = evaluate_synthetic(draws, classes, model.image_shape)
            fingerprint, count = fingerprint or classes.reference.fingerprint, count or synthetic.reference
        return EvaluationResult(
            family=model.family.name,
            kind=model.family.title,
            parameters=model.parameters,
            dataset=self.images.name,
            dataset_fingerprint=fingerprint,
            split=self.images.split,
            images=count,
            seed=config.seed,
            run_metadata=run_metadata(model.module.device),
            model_digest=model.digest(),
            likelihood=likelihood,
            samples=samples,
            synthetic=synthetic,
            pictures=pictures,
        )

    def _drawn_once(self, resumable: Resumable) -> tuple[torch.Tensor, float] | None:
        """The images for both measures of one sampler, and their seconds; None where there are not both."""
        if self.quality is None or self.synthetic is None or self.quality[0].sampler is not self.synthetic[0].sampler:
            return None
        both = (self.quality[0], self.synthetic[0])
        return replace(max(both, key=lambda draws: draws.count), resumable=resumable).images()


def prepare(model: Model, config: EvaluationConfig, images: ImageChoice | None = None) -> Measurement:
    """Check what is asked for and load the images, by default as `choose_images` finds them for the model.

    Errors as `evaluate_model`, before anything is measured.
    """
    drawn = config.samples is not None or config.classifier_accuracy is not None
    measure_likelihood = config.likelihood or not drawn
    _check_without_samples(model, config, drawn)
    if measure_likelihood and model.family.no_likelihood is not None:
        raise HfgenError(f"{model.name}: {model.family.no_likelihood}; measure its samples, --samples 10000")
    of_likelihood, of_samples = split_options(model.family, config.options, model.name)
    chosen = images or choose_images(config, {model.name: model.folder})
    draws = _draws(model, config, of_samples) if drawn else None
    measurement = Measurement(
        model=model,
        config=config,
        images=chosen,
        options=of_likelihood,
        quality=_quality(model, config, of_samples, draws, chosen),
        synthetic=_synthetic(model, config, draws, chosen),
        data=_likelihood_images(model, config, chosen) if measure_likelihood else None,
    )
    if images is None:
        chosen.tell()
    return measurement


def _quality(
    model: Model, config: EvaluationConfig, options: Any, draws: Draws | None, images: ImageChoice
) -> tuple[Draws, Extractor, RealImages] | None:
    if draws is None or config.samples is None:
        return None
    draws = _so_many(draws, config.samples, "samples", model)
    network = load_feature_network(config.features, model.pipeline.device)
    real = real_images(draws, network, model.image_shape, config, images)
    told = model.family.sampling_on(options, real.data)
    if told is not options:
        draws = replace(draws, sampler=model.family.sampler(model.pipeline, told, config.compile))
    return draws, network, real


def _synthetic(
    model: Model, config: EvaluationConfig, draws: Draws | None, images: ImageChoice
) -> tuple[Draws, RealClasses] | None:
    if draws is None or config.classifier_accuracy is None:
        return None
    draws = _so_many(draws, config.classifier_accuracy, "classifier_accuracy", model)
    return draws, real_classes(draws, model.image_shape, images, config.train_split, model.name)


def _so_many(draws: Draws, count: int, flag: str, model: Model) -> Draws:
    check_fits(local_processes() * count * math.prod(model.image_shape), f"{flag}={count}", "ask for fewer")
    return replace(draws, count=count)


def _draws(model: Model, config: EvaluationConfig, options: Any) -> Draws:
    """Of no images yet."""
    return Draws(
        sampler=model.family.sampler(model.pipeline, options, config.compile),
        device=model.pipeline.device,
        count=0,
        seed=config.seed,
        batch_size=config.batch_size or SAMPLE_BATCH,
        resumable=Resumable(None),
    )


def _likelihood_images(model: Model, config: EvaluationConfig, images: ImageChoice) -> EvaluationImages:
    return images.held_out.load(model.image_shape, model.module.device, max_images=config.max_images, seed=config.seed)


def check_finite(result: EvaluationResult, whose: str) -> None:
    """Raise `HfgenError` for a number that is no result: a mean or a term of nan or inf, an error of inf."""
    wrong = [f"{metric.name}: {metric.text()}" for metric in result.metrics.values() if not _is_finite(metric)]
    terms = None if result.likelihood is None else result.likelihood.terms
    if terms is not None:
        wrong += [
            f"the term of t = {t}: {mean}"
            for t, (mean, draws) in enumerate(zip(terms.mean, terms.draws, strict=True), start=1)
            if draws and not (mean is not None and math.isfinite(mean))
        ]
    if wrong:
        raise HfgenError(
            f"{whose} has no result ({wrong[0]}): its weights are damaged, or its scheduler is not the one it was trained with"
        )


def _is_finite(metric: Metric) -> bool:
    """A single image has no standard error: it is nan."""
    error = metric.standard_error
    return math.isfinite(metric.mean) and (error is None or not math.isinf(error))


def split_options(family: Family, values: Mapping[str, Any], whose: str) -> tuple[Any, Any]:
    """Instances of the family's options of its likelihood and of its samples; `HfgenError` for one that is neither's."""
    of_likelihood = {item.name for item in fields(family.likelihood_options)}
    first = {name: value for name, value in values.items() if name in of_likelihood}
    rest = {name: value for name, value in values.items() if name not in of_likelihood}
    whose = f"{whose} ({family.title})"
    return (
        make_options(family.likelihood_options, first, whose=whose),
        make_options(family.sampling_options, rest, whose=whose),
    )


def _check_without_samples(model: Model, config: EvaluationConfig, drawn: bool) -> None:
    """Raise `HfgenError` for options of samples where none are `drawn`, and for features where they are not looked at."""
    of_samples = {item.name for item in fields(model.family.sampling_options)}
    given = [] if drawn else [f"--{name}" for name in config.options if name in of_samples]
    given += ["--compile"] if config.compile and not drawn else []
    given += ["--features"] if config.features and config.samples is None else []
    if given:
        raise HfgenError(f"{', '.join(given)}: only with --samples, such as --samples 10000")


def write_results(result: EvaluationResult, family: Family, out: Path) -> list[Path]:
    """The JSON file and its pictures beside it; the unfinished work is then removed.

    A part that these results lack, and the file has of the same weights and configs, stays in it with what it was measured on.
    Results of others are replaced, pictures and all, with a line on stderr. Of several processes the first writes.
    """
    return on_first(lambda: _write_results(result, family, out))


def _write_results(result: EvaluationResult, family: Family, out: Path) -> list[Path]:
    earlier = _earlier(out)
    if earlier is not None:
        result = result.with_earlier(earlier)
    written = [out]
    result.save(out)
    places = pictures_beside(out)
    if earlier is not None and not result.same_model(earlier):
        tell(f"{out} held results of other weights or configs, which are replaced with their pictures")
        for place in places.values():
            place.unlink(missing_ok=True)
    if family.plot_likelihood(result, places[TERMS]):
        written.append(places[TERMS])
    if result.pictures is not None:
        for name, grid in sample_grids(result.pictures).items():
            save_png(grid, places[name])
            written.append(places[name])
    folder = partial_folder(out)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
    return written


def sample_grids(pictures: SamplePictures) -> dict[str, Image.Image]:
    """The samples, of classes with their names; real images; and above each other samples and their nearest training images."""
    samples, labels, count = pictures.samples, pictures.labels, COLUMNS_OF_NEIGHBOURS
    if samples.ndim == CLIPS:
        return _clip_grids(pictures)
    pairs = torch.cat([samples[:count], pictures.nearest[:count]])
    return {
        SAMPLES: image_grid(samples) if labels is None else labelled_grid(samples, labels),
        REAL: image_grid(pictures.real),
        NEIGHBOURS: image_grid(pairs, columns=len(samples[:count])),
    }


def _clip_grids(pictures: SamplePictures) -> dict[str, Image.Image]:
    """A clip a row, of some of them; each sample above its nearest training clip."""
    count = COLUMNS_OF_NEIGHBOURS
    samples, labels = pictures.samples[:count], pictures.labels
    pairs = torch.stack([samples, pictures.nearest[:count]], dim=1).flatten(0, 1)
    return {
        SAMPLES: image_grid(samples) if labels is None else labelled_grid(pictures.samples, labels),
        REAL: image_grid(pictures.real[:count]),
        NEIGHBOURS: image_grid(pairs),
    }


def pictures_beside(out: Path) -> dict[str, Path]:
    """By name: OUT_terms.png of the terms of a bound, OUT_samples.png, OUT_real.png, OUT_neighbours.png."""
    return {name: out.with_name(f"{out.stem}_{name}.png") for name in (TERMS, SAMPLES, REAL, NEIGHBOURS)}


def _earlier(out: Path) -> EvaluationResult | None:
    """What the file holds, if that is results."""
    try:
        return EvaluationResult.load(out) if out.is_file() else None
    except HfgenError:
        return None


def check_out(out: Path, overwrite: bool) -> None:
    """Raise `HfgenError` where `write_results` would replace what is no result of hfgen, unless `overwrite` is set."""
    check_replaceable("--out", out, _is_result, "results", overwrite=overwrite)
    for path in pictures_beside(out).values():
        check_replaceable("--out", path, lambda found: is_picture(found, "PNG"), "PNG", overwrite=overwrite)


def _is_result(path: Path) -> bool:
    return _earlier(path) is not None


def partial_folder(out: Path | None) -> Path | None:
    """Where unfinished work lies."""
    return None if out is None else out.with_name(f".{out.name}.unfinished")
