"""What is true of any model's training and results, in Markdown for its card."""

from __future__ import annotations

from collections.abc import Sequence

from hfgen.core.markdown import escape_cell, escape_markdown
from hfgen.data.digits import DIGITS
from hfgen.results import EvaluationResult, Metric, TrainingRecord

SOURCES = {DIGITS: "scikit-learn's handwritten digits", None: "a local dataset"}
FEW_IMAGES = 10_000


def training_text(training: TrainingRecord) -> str:
    """On which images it was trained and how long."""
    source = SOURCES.get(training.dataset) or escape_markdown(training.dataset)
    weights = "the moving average of the weights" if training.averaged_weights else "the last weights"
    loss = ""
    if training.held_out_loss is not None:
        where = escape_markdown(training.held_out)
        loss = f" Held-out {escape_markdown(training.loss)} at the end: {training.held_out_loss:.4f} ({where})."
    return (
        f"{training.images:,} images of {source} (split {escape_markdown(training.train_split)}), {training.epochs:g} epochs, "
        f"{training.steps:,} steps of {training.batch_size} images; the repository has {weights}.{loss}"
    )


def hardware_text(training: TrainingRecord) -> str:
    """How long it took, on what."""
    made_with = {key: escape_markdown(value) for key, value in training.run_metadata.items()}
    processes = f"{training.processes} processes, " if training.processes > 1 else ""
    precision = "" if training.mixed_precision == "no" else f", {escape_markdown(training.mixed_precision)}"
    versions = (("hfgen", "hfgen"), ("PyTorch", "torch"), ("diffusers", "diffusers"), ("accelerate", "accelerate"))
    told = ", ".join(f"{title} {made_with.get(name, 'unknown')}" for title, name in versions)
    return f"{_duration(training.seconds)} on {processes}{made_with.get('device', 'unknown')}{precision}; {told}."


def results_text(results: EvaluationResult) -> str:
    """Of which images the results are."""
    dataset, split = escape_markdown(results.dataset), escape_markdown(results.split)
    told = f"{results.images:,} images of {dataset} (split {split}), seed {results.seed}, by `hfgen evaluate`."
    samples = results.samples
    if samples is not None:
        how = escape_markdown(samples.how)
        told += f" Samples: {samples.count:,} ({how}) against {samples.reference:,} images."
    return told


def metric_rows(results: EvaluationResult) -> list[str]:
    """Rows of a table of names and values."""
    return [f"| {escape_cell(m.name)} | {escape_cell(m.text())} |" for m in results.metrics.values()]


def has_errors(metrics: Sequence[Metric]) -> bool:
    """Whether one of them is told with its standard error."""
    return any("±" in metric.text() for metric in metrics)


def limits_text(own: Sequence[str], training: TrainingRecord | None) -> str:
    """What any model cannot do, around the sentences of its own kind."""
    said = ["It draws images like those that it was trained on and nothing else.", *own]
    if training is not None and training.images < FEW_IMAGES:
        said.append(f"{training.images:,} training images are few: samples may be near copies of them.")
    return " ".join(said)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    minutes = round(seconds / 60)
    return f"{minutes} minutes" if minutes < 120 else f"{minutes // 60} hours {minutes % 60} minutes"
