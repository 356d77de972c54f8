"""Pipelines measured on the same images, side by side."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

from hfgen.errors import HfgenError
from hfgen.evaluation.comparison_page import html_page, markdown_table
from hfgen.evaluation.evaluate import evaluate, evaluation_settings, partial_folder, write_results
from hfgen.evaluation.report import save_text
from hfgen.evaluation.timing import seconds_per_sample
from hfgen.hub.card import TRAINING_FILE
from hfgen.loading import load_pipeline
from hfgen.pipelines import ClassConditionalDDPMPipeline, VAEPipeline
from hfgen.resume import Resumable
from hfgen.sampling import pick_device

BATCHES = (1, 64)


@dataclass(frozen=True)
class Entry:
    """A model of the comparison: its name, its results as JSON values, and its pictures' paths."""

    name: str
    results: dict
    pictures: dict[str, Path]


def compare(flags: Namespace, out: Path) -> str:
    """Evaluate `flags.models` by the flags of `hfgen compare`; writes `out` and its .md, returns the table.

    The results of models that are done are kept beside `out` until all are. Raises `HfgenError` as `evaluate`.
    """
    names = [Path(model).name for model in flags.models]
    if len(set(names)) < len(names):
        raise HfgenError(f"{', '.join(flags.models)}: two have the same name; rename a folder")
    work = partial_folder(out)
    Resumable(work, {"models": flags.models, "version": 1})
    entries = [_entry(flags, model, name, work) for model, name in zip(flags.models, names, strict=True)]
    rows = comparison_rows(entries)
    table = markdown_table(rows)
    save_text(table + "\n", out.with_suffix(".md"))
    save_text(html_page(rows, entries, flags), out)
    Resumable(work, {"models": flags.models, "version": 1}).finish()
    return table


def _entry(flags: Namespace, model: str, name: str, work: Path) -> Entry:
    pipeline = load_pipeline(model, device=pick_device(flags.device))
    own = Namespace(**vars(flags))
    vae = isinstance(pipeline, VAEPipeline)
    own.likelihood = True
    if vae:
        own.steps = own.scheduler = own.eta = None
        own.compile = False
    else:
        own.sample_pixels = False
    if not isinstance(pipeline, ClassConditionalDDPMPipeline):
        own.guidance_scale = None
    path = work / f"{name}.json"
    pictures = {kind: path.with_name(f"{name}_{kind}.png") for kind in ("samples", "terms")}
    wanted = evaluation_settings(own, pipeline)
    results = json.loads(path.read_text()) if path.is_file() else None
    if results is None or results["settings"] != wanted:
        results, samples = evaluate(pipeline, own, path)
        seconds = {str(batch): seconds_per_sample(pipeline, own, batch, flags.repeat) for batch in BATCHES}
        results |= {"seconds_per_sample": seconds, "training": _training(model), "settings": wanted}
        write_results(results, samples, path)
    return Entry(name, results, {kind: place for kind, place in pictures.items() if place.is_file()})


def _training(model: str) -> dict | None:
    """What a trainer wrote beside the pipeline, if it did."""
    path = Path(model) / TRAINING_FILE
    return json.loads(path.read_text()) if path.is_file() else None


def comparison_rows(entries: list[Entry]) -> list[list[str]]:
    """A row of texts for each property, the first for the names."""
    rows = [["", *(entry.name for entry in entries)]]
    rows += [[label, *(_text(value, entry.results) for entry in entries)] for label, value in PROPERTIES]
    return [row for row in rows if any(cell != NOTHING for cell in row[1:])]


NOTHING = "–"


def _text(value, results: dict) -> str:
    found = value(results)
    return NOTHING if found is None else found


def _metric(key: str, digits: int):
    def show(results):
        metric = results["metrics"].get(key)
        if metric is None:
            return None
        error = metric["standard_error"]
        spread = "" if error is None else f" ± {error:.{digits}f}"
        floor = results["metrics"].get(f"{key}_floor")
        beside = "" if floor is None else f" (floor {floor['mean']:.{digits}f})"
        return f"{metric['mean']:.{digits}f}{spread}{beside}"

    return show


def _first(*options):
    def show(results):
        return next((text for option in options if (text := option(results)) is not None), None)

    return show


def _seconds(batch: int):
    def show(results):
        return f"{results['seconds_per_sample'][str(batch)]:.2g} s"

    return show


def _training_time(results):
    training = results["training"]
    if training is None:
        return None
    return f"{training['seconds'] / 60:.0f} min ({training['environment']['device']})"


PROPERTIES = (
    ("kind", lambda r: f"diffusion, T = {r['T']}" if r["kind"] == "diffusion" else r["kind"]),
    ("parameters", lambda r: f"{r['parameters']:,}"),
    ("measured", lambda r: f"{r['quantity']} ({r['likelihood']})"),
    ("bound, bits/dim", _first(_metric("vlb_total_bits_per_dim", 3), _metric("negative_elbo_bits_per_dim", 3))),
    ("importance-weighted bound, bits/dim", _metric("negative_iw_bound_bits_per_dim", 3)),
    ("bound, nats/image", _first(_metric("vlb_total", 2), _metric("negative_elbo", 2))),
    ("importance-weighted bound, nats/image", _metric("negative_iw_bound", 2)),
    ("samples", lambda r: f"{r['samples']['count']:,}, {r['samples']['how']}"),
    ("Frechet distance (not FID)", _metric("frechet", 3)),
    ("precision", _metric("precision", 3)),
    ("recall", _metric("recall", 3)),
    ("share in another class than the reference's", _metric("class_shift", 3)),
    ("classifier's mean confidence", _metric("confidence", 3)),
    ("training time", _training_time),
    ("per sample, one at a time", _seconds(1)),
    ("per sample, 64 at a time", _seconds(64)),
)
