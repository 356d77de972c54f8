"""What is true of any model's training and results, in Markdown for its card."""

from __future__ import annotations

from collections.abc import Sequence

from hfgen.core.markdown import escape_cell, escape_markdown
from hfgen.core.media import CLIPS
from hfgen.data.digits import DIGITS
from hfgen.results import EvaluationResult, MeasuredOn, SampleResult, TrainingRecord

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
    streamed = bool((training.data or {}).get("streamed"))
    passes = "taken from a stream" if streamed else f"{training.epochs:g} epochs"
    images = "clips" if 1 + len(training.image_shape) == CLIPS else "images"
    return (
        f"{training.images:,} {images} of {source} (split {escape_markdown(training.train_split)}), {passes}, "
        f"{training.steps:,} steps of {training.batch_size} {images}; the repository has {weights}.{loss}"
    )


def hardware_text(training: TrainingRecord) -> str:
    """How long it took, on what."""
    made_with = {key: escape_markdown(value) for key, value in training.run_metadata.items()}
    processes = f"{training.processes} processes, " if training.processes > 1 else ""
    precision = "" if training.mixed_precision == "no" else f", {escape_markdown(training.mixed_precision)}"
    versions = (("hfgen", "hfgen"), ("PyTorch", "torch"), ("diffusers", "diffusers"), ("accelerate", "accelerate"))
    told = ", ".join(f"{title} {made_with.get(name, 'unknown')}" for title, name in versions)
    cpu = "" if training.cpu_seconds is None else f" ({_duration(training.cpu_seconds)} of CPU time)"
    return f"{_duration(training.seconds)}{cpu} on {processes}{made_with.get('device', 'unknown')}{precision}; {told}."


def results_text(results: EvaluationResult) -> str:
    """Of which images the results are; of parts that were measured on different ones, or at another time, each its own."""
    told, synthetic = _of_likelihood_and_samples(results), results.synthetic
    if synthetic is None:
        return told
    on = _source(results.measured_on(synthetic))
    return (
        f"{told} A classifier was trained on {synthetic.count:,} samples ({synthetic.how}) alone and measured on "
        f"{synthetic.reference:,} images of {on}."
    ).strip()


def _of_likelihood_and_samples(results: EvaluationResult) -> str:
    likelihood, samples = results.likelihood, results.samples
    if likelihood is None or samples is None:
        told = (
            f"{_on(results.measured_on(likelihood or samples))}, by `hfgen evaluate`." if likelihood or samples else ""
        )
        return told if samples is None else f"{told} {_samples(samples, '')}"
    of_likelihood, of_samples = map(results.measured_on, (likelihood, samples))
    if of_likelihood == of_samples:
        return f"{_on(of_likelihood)}, by `hfgen evaluate`. {_samples(samples, '')}"
    on = f" of {_source(of_samples)}"
    return f"By `hfgen evaluate`. Likelihood: {_on(of_likelihood)}. {_samples(samples, on)}"


def _on(on: MeasuredOn) -> str:
    return f"{on.images:,} images of {_source(on)}"


def _source(on: MeasuredOn) -> str:
    return f"{escape_markdown(on.dataset)} (split {escape_markdown(on.split)}), seed {on.seed}"


def _samples(samples: SampleResult, on: str) -> str:
    few = ""
    if "frechet" not in samples.metrics and samples.num_features is not None:
        few = f" They are too few for a Frechet distance of {samples.num_features} features."
    return f"Samples: {samples.count:,} ({escape_markdown(samples.how)}) against {samples.reference:,} images{on}.{few}"


def sample_captions(results: EvaluationResult | None) -> dict[str, str]:
    """Of the pictures beside the results that show samples and real images, by the file's name without .png."""
    samples = None if results is None else results.samples
    if samples is None or samples.training_images is None:
        return {}
    return {
        "results_real": "Images that the samples are held against, not selected.",
        "results_neighbours": (
            "Above samples, below each the training image that is nearest to it in pixels (Euclidean distance), of "
            f"{samples.training_images:,}."
        ),
    }


def metric_rows(results: EvaluationResult) -> list[str]:
    """Rows of a table of names and values."""
    return [f"| {escape_cell(m.name)} | {escape_cell(m.text())} |" for m in results.metrics.values()]


def error_words(results: EvaluationResult) -> str:
    """What ± is, where it stands in the table."""
    with_error = {key for key, metric in results.metrics.items() if "±" in metric.text()}
    if not with_error:
        return ""
    of_subsets = ", of a kernel distance over disjoint subsets of them" if "kid" in with_error else ""
    return f"± is the standard error over images{of_subsets}."


def limits_text(own: Sequence[str], training: TrainingRecord | None, *, draws: bool = True) -> str:
    """What any model cannot do, around the sentences of its own kind."""
    said = [f"It {'draws' if draws else 'knows'} images like those that it was trained on and nothing else.", *own]
    if training is not None and training.images < FEW_IMAGES:
        said.append(f"{training.images:,} training images are few: samples may be near copies of them.")
    return " ".join(said)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    minutes = round(seconds / 60)
    return f"{minutes} minutes" if minutes < 120 else f"{minutes // 60} hours {minutes % 60} minutes"
