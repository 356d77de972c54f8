"""Model cards, from a model and what lies in its folder."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from tqdm.auto import tqdm

from hfgen.core.errors import HfgenError
from hfgen.core.files import write_text
from hfgen.core.markdown import code_block, escape_cell, escape_markdown, python_text
from hfgen.data.clip_sources import split_name
from hfgen.families.base import UNCONDITIONAL, Card
from hfgen.families.model import Model
from hfgen.hub.describe import (
    error_words,
    hardware_text,
    limits_text,
    metric_rows,
    results_text,
    sample_captions,
    training_text,
)
from hfgen.results import EvaluationResult, MeasuredOn, Metric, TrainingRecord

CARD_FILE, RESULTS_FILE, TRAINING_FILE = "README.md", "results.json", "training.json"
SAMPLES_PICTURE, LOSS_PICTURE = "samples.png", "loss.png"
# what `hfgen evaluate` leaves beside the results, and belongs to them
MEASURED_SAMPLES, TERMS_PICTURE = "results_samples.png", "results_terms"
MARK = (
    "<!-- written by hfgen from the files beside it, and written anew while this line stands; the license is kept -->"
)
TEMPLATE = Path(__file__).with_name("card_template.md")
LICENSE = "apache-2.0"
DATASET_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")  # the Hub refuses a card with another one, such as a folder's


def refresh_card(model: Model, *, after_training: bool = False) -> Path:
    """Write README.md of a model's folder from its configs, pictures, training.json and results.json.

    Results of other weights or configs, as a training leaves behind that is overwritten, are not told, with a line on stderr;
    results of before they told the weights are, except `after_training`: none can be of what has just been trained.

    A card that somebody has written or taken over (without the line that marks a generated one) keeps its text: only its
    `model-index`, the measured results, is brought up to date. Returns the card's path.

    Raises `HfgenError` for a model without a folder and for a card or JSON file that cannot be read or written.
    """
    folder = model.folder
    if folder is None:
        raise HfgenError(f"{model.name} has no folder for its card: save it first, then load it from there")
    path, training_file, results_file = (folder / name for name in (CARD_FILE, TRAINING_FILE, RESULTS_FILE))
    training = TrainingRecord.load(training_file) if training_file.is_file() else None
    results = _own_results(model, results_file, after_training)
    present = _load_card(path) if path.is_file() else None
    if present is None or MARK in present.text:
        license = (present.data.license if present else None) or LICENSE
        card = render_card(model, training=training, results=results, license=license)
    elif results is None or _same_results(present, results, model.name):
        return path
    else:
        card = present
        card.data.model_name, card.data.eval_results = model.name, eval_results(results, _task(present))
    write_text(path, f"{card}".rstrip() + "\n")
    return path


def _own_results(model: Model, path: Path, after_training: bool) -> EvaluationResult | None:
    """What was measured of this very model."""
    results = EvaluationResult.load(path) if path.is_file() else None
    if results is None:
        return None
    of_before = results.model_digest is None and not after_training
    if of_before or results.model_digest == model.digest():
        return results
    tqdm.write(f"hfgen: {path} is of other weights or configs, the card leaves it out: measure again", file=sys.stderr)
    return None


def is_generated(path: Path) -> bool:
    """Whether a card is there and has the line that marks those which hfgen writes."""
    return path.is_file() and MARK in path.read_text(encoding="utf-8")


def render_card(
    model: Model,
    *,
    training: TrainingRecord | None = None,
    results: EvaluationResult | None = None,
    license: str = LICENSE,
) -> ModelCard:
    """The card of a model by the template, with the pictures that its folder has, if it has one."""
    told = model.family.card(model.pipeline, python_text(model.name), training, results)
    dataset = _repository((training.dataset if training else None) or "")
    data = ModelCardData(
        license=license,
        library_name="diffusers",
        pipeline_tag=told.task,
        tags=["diffusers", *told.tags, "hfgen"],
        datasets=[dataset] if dataset else None,
        model_name=model.name if results else None,
        eval_results=eval_results(results, told.task) if results else None,
    )
    return ModelCard.from_template(data, template_path=str(TEMPLATE), **_values(model, told, training, results))


def _task(card: ModelCard) -> str:
    return card.data.pipeline_tag or UNCONDITIONAL


def eval_results(results: EvaluationResult, task: str = UNCONDITIONAL) -> list[EvalResult]:
    """The metrics of an evaluation as the Hub's metadata, to four decimals; the floors, of real images, are left out."""
    return [
        _eval_result(key, metric, results.measured_on(part), task)
        for part in (results.likelihood, results.samples, results.synthetic)
        if part is not None
        for key, metric in part.metrics.items()
        if not key.endswith("_floor")
    ]


def _eval_result(key: str, metric: Metric, on: MeasuredOn, task: str) -> EvalResult:
    return EvalResult(
        task_type=task,
        dataset_type=_repository(on.dataset) or "unknown",
        dataset_name=on.dataset,
        dataset_split=on.split,
        metric_type=key,
        metric_name=f"{metric.name}, {metric.unit}" if metric.unit else metric.name,
        metric_value=round(metric.mean, 4),
    )


def _repository(dataset: str) -> str | None:
    """Which one a name stands for, if any: of a local folder results tell the last part, which has no slash."""
    name = split_name(dataset)[1]
    return name if "/" in name and DATASET_ID.fullmatch(name) else None


def with_repository(text: str, folder_name: str, repo: str) -> str:
    """A card's text whose code loads `repo` where it loaded the folder of that name; title and name in the metadata of a generated
    one are the repository's.
    """
    parents = r"(?:[\w.-]+/)*"
    in_python, in_shell = re.escape(python_text(folder_name)), re.escape(shlex.quote(folder_name))
    text = re.sub(rf'(from_pretrained\("){parents}{in_python}(?=")', rf"\g<1>{repo}", text)
    text = re.sub(rf"(hfgen \w+ ){parents}{in_shell}(?=[\s`])", rf"\g<1>{repo}", text)
    if MARK in text:
        name = repo.rpartition("/")[2]
        text = text.replace(f"\n# {escape_markdown(folder_name)}\n", f"\n# {name}\n", 1)
        text = re.sub(r"(\nmodel-index:\n- name: )[^\n]*", lambda found: f"{found[1]}{json.dumps(name)}", text, count=1)
    return text


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Those of a folder that its card shows, by the names of their files.

    Attributes:
        samples: empty where there are none.
        results: of what was measured, with their captions.
        others: of the kind of model, with their captions.
    """

    samples: str
    loss: bool
    results: list[dict[str, str]]
    others: list[dict[str, str]]


def _values(
    model: Model, told: Card, training: TrainingRecord | None, results: EvaluationResult | None
) -> dict[str, Any]:
    """The template's."""
    values = {
        "mark": MARK,
        "title": escape_markdown(model.name),
        "summary": told.summary,
        "samples_caption": told.samples,
        "usage": told.usage.rstrip(),
        "sample_command": code_block(_command(model, told), "sh"),
        "pictures": _pictures(model.folder, told, results),
        "limits": limits_text(told.limits, training, draws=model.family.draws),
    }
    if training is not None:
        values |= {
            "training_text": training_text(training),
            "training_command": code_block(training.command, "sh"),
            "hardware_text": hardware_text(training),
        }
    if results is not None:
        values |= {
            "results_text": results_text(results),
            "results_note": told.results,
            "quantity": escape_cell(results.likelihood.quantity if results.likelihood else "measured"),
            "metric_rows": metric_rows(results),
            "errors": error_words(results),
        }
    return values


def _command(model: Model, told: Card) -> str:
    """What is run first of a model that lies here."""
    name = shlex.quote(model.name)
    if not model.family.draws:
        return f"hfgen figures {name}"
    return f"hfgen sample {name} {told.sample_flags and f'{told.sample_flags} '}--out samples.png"


def _pictures(folder: Path | None, told: Card, results: EvaluationResult | None) -> Pictures:
    def there(name: str) -> bool:
        return folder is not None and (folder / name).is_file()

    def shown(captions: Mapping[str, str]) -> list[dict[str, str]]:
        return [{"name": name, "caption": text} for name, text in captions.items() if there(f"{name}.png")]

    drawn = results is not None and results.samples is not None
    has_terms = results is not None and results.likelihood is not None and results.likelihood.terms is not None
    samples = [SAMPLES_PICTURE, *([MEASURED_SAMPLES] if drawn else [])]
    return Pictures(
        samples=next((name for name in samples if there(name)), ""),
        loss=there(LOSS_PICTURE),
        results=shown(sample_captions(results)),
        others=shown({name: text for name, text in told.pictures.items() if has_terms or name != TERMS_PICTURE}),
    )


def _same_results(card: ModelCard, results: EvaluationResult, name: str) -> bool:
    wanted = ModelCardData(model_name=name, eval_results=eval_results(results, _task(card))).to_dict()
    return card.data.to_dict().get("model-index") == wanted["model-index"]


def _load_card(path: Path) -> ModelCard:
    try:
        return ModelCard(path.read_text(encoding="utf-8"))
    except Exception as error:  # whatever the YAML reader raises
        reason = " ".join(str(error).split())[:200]
        raise HfgenError(
            f"{path} is no valid model card ({reason}): mend its first block or remove the file"
        ) from error
