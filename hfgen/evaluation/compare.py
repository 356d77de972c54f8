"""Models measured on the same images, side by side."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from hfgen.configs.evaluation import ComparisonConfig, EvaluationConfig
from hfgen.core.errors import HfgenError
from hfgen.core.files import make_folder, read_json, write_json, write_text
from hfgen.core.overwrite import check_replaceable
from hfgen.core.processes import on_first
from hfgen.core.resume import Resumable, remove, tell_anew
from hfgen.data.choice import ImageChoice, choose_images
from hfgen.drawing.sampler import Sampler
from hfgen.evaluation.comparison_page import MARK, has_mark, html_page, markdown_table
from hfgen.evaluation.comparison_rows import Entry, comparison_rows, explanations
from hfgen.evaluation.evaluate import Measurement, pictures_beside, prepare, split_options, write_results
from hfgen.evaluation.synthetic import no_classes
from hfgen.evaluation.timing import evaluations_of, seconds_per_sample
from hfgen.families.base import Family
from hfgen.families.model import Model
from hfgen.results import RESULTS_FILE, TRAINING_FILE, EvaluationResult, TrainingRecord

BATCHES = (1, 64)
REAL_IMAGES = "real images"
KEPT_FILE = "kept.json"
Loader = Callable[[str], Model]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What was measured of several models; shows itself in a notebook.

    Attributes:
        results: by the models' names.
        page: the whole as an HTML page that needs no other file.
    """

    results: Mapping[str, EvaluationResult]
    rows: list[list[str]]
    page: str

    def table(self) -> str:
        """As Markdown."""
        return markdown_table(self.rows)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the page, and the table beside it as .md.

        Raises `HfgenError` when they cannot be written, and for a file in their place that hfgen did not write, unless
        `overwrite` is set.
        """
        path = Path(path)
        check_page(path, overwrite)
        write_text(path.with_suffix(".md"), f"{self.table()}\n\n{MARK}\n")
        write_text(path, self.page)

    def plot(self):
        """Real images and the samples of each model beside each other, as a matplotlib figure."""
        from hfgen.core.media import image_grid
        from hfgen.core.plotting import new_figure

        drawn = {name: result.pictures for name, result in self.results.items() if result.pictures is not None}
        shown = {name: pictures.samples for name, pictures in drawn.items()}
        if drawn:
            shown = {REAL_IMAGES: next(iter(drawn.values())).real, **shown}
        figure = new_figure(4 * max(1, len(shown)), 4.4)
        axes = figure.subplots(1, max(1, len(shown)), squeeze=False)[0]
        for place, (name, images) in zip(axes, shown.items(), strict=False):
            place.imshow(image_grid(images), cmap="gray")
            place.set(title=name, xticks=[], yticks=[])
        return figure

    def _repr_html_(self) -> str:
        from hfgen.evaluation.comparison_page import html_table

        return html_table(self.rows)


def compare_models(config: ComparisonConfig, load: Loader, work: Path) -> Comparison:
    """Evaluate `config.models`, each loaded by `load`, and set them side by side.

    Options that a family has not are left out for its models. The results of models that are done are kept in the folder `work`
    until `finish_comparison`. Raises `HfgenError` for fewer than two models, for two of one name, for a model that cannot be
    loaded and for an option that no model has, before anything is measured; and as `evaluate_model`.
    """
    names = model_names(config)
    folders = check_models(config, load, names)
    images = choose_images(config.evaluation, dict(zip(names, folders, strict=True)))
    images.tell()
    resumable = _resumable(config, work)
    entries = []
    try:
        for number, (place, name) in enumerate(zip(config.models, names, strict=True)):
            # numbered folders: no name of a model is in the way of another's files
            entries.append(_entry(config, replace(load(place), name=name), images, work / str(number)))
    except HfgenError:
        resumable.finish_if_empty()
        raise
    rows = comparison_rows(entries)
    results = {entry.name: entry.result for entry in entries}
    page = on_first(lambda: html_page(rows, entries, explanations(rows), config))
    return Comparison(results=results, rows=rows, page=page)


def check_models(config: ComparisonConfig, load: Loader, names: list[str]) -> list[Path | None]:
    """Load each model once; returns their folders. `HfgenError` for one that cannot be loaded and for an option that none has."""
    known: set[str] = set()
    folders = []
    for place in config.models:
        model = load(place)
        folders.append(model.folder)
        _training(model)
        known |= option_names(model.family)
    unknown = [f"--{option}" for option in config.evaluation.options if option not in known]
    if unknown:
        raise HfgenError(f"{', '.join(unknown)}: none of {', '.join(names)} has such a choice: leave it out")
    return folders


def check_page(out: Path, overwrite: bool) -> None:
    """Raise `HfgenError` where `Comparison.save` would replace what hfgen did not write, unless `overwrite` is set."""
    for path in (out, out.with_suffix(".md")):
        check_replaceable("--out", path, has_mark, "comparison", overwrite=overwrite)


def finish_comparison(config: ComparisonConfig, work: Path) -> None:
    """Remove what is kept for going on."""
    _resumable(config, work).finish()


def comparison_folder(out: Path) -> Path:
    """Where the unfinished work of a page lies."""
    return out.with_name(f".{out.name}.unfinished")


def model_names(config: ComparisonConfig) -> list[str]:
    """The last parts of the models' paths; `HfgenError` for fewer than two, for two alike and for one that is none."""
    if len(config.models) < 2:
        raise HfgenError(f"{', '.join(config.models) or 'no model'} alone: name two or more pipelines to compare")
    names = [_name(model) for model in config.models]
    if "" in names:
        raise HfgenError(f"{config.models[names.index('')]} has no name: name a folder of a pipeline")
    if len(set(names)) < len(names):
        raise HfgenError(f"{', '.join(config.models)}: two have the same name; rename a folder")
    return names


def _name(model: str) -> str:
    name = Path(model).name
    return Path(model).resolve().name if name in ("", "..") else name


def option_names(family: Family) -> set[str]:
    """What can be chosen of a family's likelihood and samples."""
    return {item.name for kind in (family.likelihood_options, family.sampling_options) for item in fields(kind)}


def _resumable(config: ComparisonConfig, work: Path) -> Resumable:
    return Resumable(work, {"models": list(config.models), "version": 5})


def _entry(config: ComparisonConfig, model: Model, images: ImageChoice, folder: Path) -> Entry:
    """Of results that are in the folder, or measured and kept there."""
    own = own_config(config.evaluation, model.family)
    without = _no_accuracy(own, model)
    own = replace(own, classifier_accuracy=None) if without else own
    measurement = prepare(model, own, images)
    wanted = {"repeat": config.repeat, **measurement.settings()}
    path = folder / RESULTS_FILE
    result = on_first(lambda: _kept(folder, wanted))
    if result is None:
        on_first(lambda: make_folder("--out", folder, folder))
        result = measurement.measure(path)
        seconds, evaluations = on_first(lambda: _effort(config, measurement))
        result = replace(result, seconds_per_sample=seconds, evaluations_per_sample=evaluations)
        written = write_results(result, model.family, path)
        on_first(lambda: _keep(folder, wanted, written))
    return Entry(
        name=model.name,
        result=result,
        training=_training(model),
        likelihood=model.family.likelihood_kind if model.family.no_likelihood is None else "none",
        no_accuracy=without,
        pictures={kind: place for kind, place in pictures_beside(path).items() if place.is_file()},
    )


def _keep(folder: Path, wanted: Mapping[str, Any], written: Sequence[Path]) -> None:
    """Leave a record by which `_kept` knows these files again."""
    digests = {place.name: _digest(place) for place in written}
    write_json(folder / KEPT_FILE, {"settings": wanted, "files": digests})


def _kept(folder: Path, wanted: Mapping[str, Any]) -> EvaluationResult | None:
    """The results that an earlier run has left in the folder, if they are of the same work and whole."""
    if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir()):
        tell_anew(folder, "the model is")
        remove(folder)
    record = folder / KEPT_FILE
    if not os.path.lexists(record):
        return None
    kept = _read_kept(record)
    if kept is None:
        tell_anew(record, "the model is")
    elif kept["settings"] == wanted:
        damaged = [name for name, digest in kept["files"].items() if _digest(folder / name) != digest]
        if not damaged:
            return EvaluationResult.load(folder / RESULTS_FILE)
        tell_anew(folder / damaged[0], "the model is")
    remove(folder)
    return None


def _read_kept(record: Path) -> dict[str, Any] | None:
    try:
        kept = read_json(record) if record.is_file() else None
    except HfgenError:
        return None
    whole = isinstance(kept, dict) and all(isinstance(kept.get(key), dict) for key in ("settings", "files"))
    return kept if whole and RESULTS_FILE in kept["files"] else None


def _digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def own_config(config: EvaluationConfig, family: Family) -> EvaluationConfig:
    """The part of a common configuration that concerns a family."""
    known = option_names(family)
    options = {name: value for name, value in config.options.items() if name in known}
    compiled = config.compile and family.can_compile
    return replace(
        config,
        likelihood=family.no_likelihood is None and config.likelihood is not False,
        options=options,
        compile=compiled,
    )


def _no_accuracy(own: EvaluationConfig, model: Model) -> str:
    """Why a model whose samples are to teach a classifier cannot have that; "" where it can, or nobody asked."""
    if own.classifier_accuracy is None:
        return ""
    return no_classes(_sampler(own, model)) or ""


def _sampler(own: EvaluationConfig, model: Model) -> Sampler:
    _, options = split_options(model.family, own.options, model.name)
    return model.family.sampler(model.pipeline, options, own.compile)


def _effort(config: ComparisonConfig, measurement: Measurement) -> tuple[dict[str, float], float]:
    """Seconds a sample by the number of samples at once, and network evaluations of a sample that is drawn alone."""
    model, own = measurement.model, measurement.config
    sampler = _sampler(own, model) if measurement.quality is None else measurement.quality[0].sampler
    device: torch.device = model.pipeline.device
    alone, *more = BATCHES
    # of a pipeline whose networks are trained together the one that is asked in each step
    with evaluations_of(getattr(model.pipeline, model.family.network, model.module)) as counted:
        seconds = {str(alone): seconds_per_sample(sampler, device, own.seed, alone, config.repeat)}
    seconds |= {str(batch): seconds_per_sample(sampler, device, own.seed, batch, config.repeat) for batch in more}
    return seconds, counted.per_sample(alone * (config.repeat + 1))


def _training(model: Model) -> TrainingRecord | None:
    """What a trainer wrote beside the pipeline, if it did."""
    path = None if model.folder is None else model.folder / TRAINING_FILE
    return TrainingRecord.load(path) if path is not None and path.is_file() else None
