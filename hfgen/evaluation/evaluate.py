"""All that is measured of a model, so that it can be broken off and taken up again."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from hfgen.configs.evaluation import EvaluationConfig
from hfgen.core.errors import HfgenError
from hfgen.core.media import image_grid, save_png
from hfgen.core.metadata import run_metadata
from hfgen.core.resume import Resumable
from hfgen.data.evaluation_images import load_evaluation_images, shown_dataset
from hfgen.evaluation.features import FeatureNetwork, load_feature_network
from hfgen.evaluation.samples import Draws, RealImages, evaluate_samples, real_images
from hfgen.families.base import Family, LikelihoodSettings, make_options
from hfgen.families.model import Model
from hfgen.results import EvaluationResult, LikelihoodResult

SAMPLE_BATCH = 64


def evaluate_model(model: Model, config: EvaluationConfig, out: Path | None = None) -> EvaluationResult:
    """Measure what `config` asks for: the likelihood, the quality of samples, or both.

    Parts that are done are kept beside `out` until `write_results`. What is wrong with the options of samples is told before
    the likelihood is measured.

    Raises `HfgenError` for options that the model's family has not, for images that do not fit the model, and for what cannot be
    measured.
    """
    measure_likelihood = config.likelihood or config.samples is None
    if config.samples is None:
        _check_without_samples(model, config)
    if measure_likelihood and model.family.no_likelihood is not None:
        raise HfgenError(f"{model.name}: {model.family.no_likelihood}; measure its samples, --samples 10000")
    resumable = Resumable(partial_folder(out), evaluation_settings(model, config))
    try:
        return _evaluate(model, config, resumable, measure_likelihood)
    except HfgenError:
        resumable.finish_if_empty()
        raise


def _evaluate(
    model: Model, config: EvaluationConfig, resumable: Resumable, measure_likelihood: bool
) -> EvaluationResult:
    likelihood_options, sampling_options = split_options(model.family, config.options, model.name)
    quality: tuple[Draws, FeatureNetwork, RealImages] | None = None
    if config.samples is not None:
        draws = Draws(
            sampler=model.family.sampler(model.pipeline, sampling_options, config.compile),
            device=model.pipeline.device,
            count=config.samples,
            seed=config.seed,
            batch_size=config.batch_size or SAMPLE_BATCH,
            resumable=resumable,
        )
        network = load_feature_network(config.features, model.pipeline.device)
        quality = draws, network, real_images(draws, network, model.image_shape, config)
    likelihood, fingerprint, count = None, None, None
    if measure_likelihood:
        likelihood, fingerprint, count = _likelihood(model, config, likelihood_options, resumable)
    samples = pictures = None
    if quality is not None:
        samples, pictures = evaluate_samples(*quality)
        fingerprint, count = fingerprint or quality[2].fingerprint, count or samples.reference
    return EvaluationResult(
        family=model.family.name,
        kind=model.family.title,
        parameters=model.parameters,
        dataset=shown_dataset(config.dataset_name),
        dataset_fingerprint=str(fingerprint),
        split=config.split,
        images=int(count or 0),
        seed=config.seed,
        run_metadata=run_metadata(model.module.device),
        likelihood=likelihood,
        samples=samples,
        pictures=pictures,
    )


def _likelihood(
    model: Model, config: EvaluationConfig, options: Any, resumable: Resumable
) -> tuple[LikelihoodResult, str, int]:
    """The result, and the data's fingerprint and number of images."""
    data = load_evaluation_images(
        config.dataset_name,
        config.split,
        shape=model.image_shape,
        device=model.module.device,
        max_images=config.max_images,
        dataset_config_name=config.dataset_config_name,
    )
    settings = LikelihoodSettings(options=options, seed=config.seed, batch_size=config.batch_size, resumable=resumable)
    return model.family.likelihood(model.pipeline, data, settings), data.fingerprint, len(data.images)


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


def _check_without_samples(model: Model, config: EvaluationConfig) -> None:
    """Raise `HfgenError` for options of samples without samples."""
    of_samples = {item.name for item in fields(model.family.sampling_options)}
    given = [f"--{name}" for name in config.options if name in of_samples]
    given += [f"--{name}" for name in ("features", "compile") if getattr(config, name)]
    if given:
        raise HfgenError(f"{', '.join(given)}: only with --samples, such as --samples 10000")


def write_results(result: EvaluationResult, family: Family, out: Path) -> list[Path]:
    """The JSON file and its pictures beside it: OUT_terms.png, OUT_samples.png; the unfinished work is then removed."""
    written = [out]
    result.save(out)
    terms = out.with_name(f"{out.stem}_terms.png")
    if family.plot_likelihood(result, terms):
        written.append(terms)
    if result.pictures is not None:
        written.append(out.with_name(f"{out.stem}_samples.png"))
        save_png(image_grid(result.pictures), written[-1])
    folder = partial_folder(out)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
    return written


def partial_folder(out: Path | None) -> Path | None:
    """Where unfinished work lies."""
    return None if out is None else out.with_name(f".{out.name}.unfinished")


def evaluation_settings(model: Model, config: EvaluationConfig) -> dict[str, Any]:
    """What results depend on, as JSON values: what is asked for, the weights, and the configs of the model."""
    digest = hashlib.sha256()
    for tensor in model.module.state_dict().values():
        digest.update(memoryview(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()))
    asked = {item.name: getattr(config, item.name) for item in fields(config) if item.metadata.get("identity", True)}
    configs = {name: _plain(values) for name, values in model.family.configs(model.pipeline).items()}
    of_model = {"weights": digest.hexdigest(), "configs": configs, "device": model.module.device.type}
    return _plain(asked) | of_model


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON values, without what does not matter: where it was loaded from, and by which version."""
    return json.loads(json.dumps({key: value for key, value in values.items() if not key.startswith("_")}))
