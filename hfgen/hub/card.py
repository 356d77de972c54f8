"""Model cards, from a model and what lies in its folder."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hfgen.core.errors import HfgenError
from hfgen.core.files import write_text
from hfgen.core.markdown import code_block, escape_cell, escape_markdown, python_text
from hfgen.families.base import Card
from hfgen.families.model import Model
from hfgen.hub.describe import hardware_text, has_errors, limits_text, metric_rows, results_text, training_text
from hfgen.results import EvaluationResult, TrainingRecord

CARD_FILE, RESULTS_FILE, TRAINING_FILE = "README.md", "results.json", "training.json"
SAMPLES_PICTURE, LOSS_PICTURE = "samples.png", "loss.png"
MARK = (
    "<!-- written by hfgen from the files beside it, and written anew while this line stands; the license is kept -->"
)
TEMPLATE = Path(__file__).with_name("card_template.md")
LICENSE = "apache-2.0"
TASK = "unconditional-image-generation"
DATASET_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")  # the Hub refuses a card with another one, such as a folder's


def refresh_card(model: Model) -> Path:
    """Write README.md of a model's folder from its configs, pictures, training.json and results.json.

    A card that somebody has written or taken over (without the line that marks a generated one) keeps its text: only its
    `model-index`, the measured results, is brought up to date. Returns the card's path.

    Raises `HfgenError` for a model without a folder and for a card or JSON file that cannot be read or written.
    """
    folder = model.folder
    if folder is None:
        raise HfgenError(f"{model.name} has no folder for its card: save it first, then load it from there")
    path, training_file, results_file = (folder / name for name in (CARD_FILE, TRAINING_FILE, RESULTS_FILE))
    training = TrainingRecord.load(training_file) if training_file.is_file() else None
    results = EvaluationResult.load(results_file) if results_file.is_file() else None
    present = _load_card(path) if path.is_file() else None
    if present is None or MARK in present.text:
        license = (present.data.license if present else None) or LICENSE
        card = render_card(model, training=training, results=results, license=license)
    elif results is None or _same_results(present, results, model.name):
        return path
    else:
        card = present
        card.data.model_name, card.data.eval_results = model.name, eval_results(results)
    write_text(path, f"{card}".rstrip() + "\n")
    return path


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
    dataset = (training.dataset if training else None) or ""
    data = ModelCardData(
        license=license,
        library_name="diffusers",
        pipeline_tag=TASK,
        tags=["diffusers", *told.tags, "hfgen"],
        datasets=[dataset] if "/" in dataset and DATASET_ID.fullmatch(dataset) else None,
        model_name=model.name if results else None,
        eval_results=eval_results(results) if results else None,
    )
    return ModelCard.from_template(data, template_path=str(TEMPLATE), **_values(model, told, training, results))


def eval_results(results: EvaluationResult) -> list[EvalResult]:
    """The metrics of an evaluation as the Hub's metadata, to four decimals; the floors, of real images, are left out."""
    return [
        EvalResult(
            task_type=TASK,
            dataset_type=results.dataset if DATASET_ID.fullmatch(results.dataset) else "unknown",
            dataset_name=results.dataset,
            dataset_split=results.split,
            metric_type=key,
            metric_name=f"{metric.name}, {metric.unit}" if metric.unit else metric.name,
            metric_value=round(metric.mean, 4),
        )
        for key, metric in results.metrics.items()
        if not key.endswith("_floor")
    ]


def with_repository(text: str, folder_name: str, repo: str) -> str:
    """A card's text whose code loads `repo` where it loaded the folder of that name; the title of a generated one is the repository's."""
    parents = r"(?:[\w.-]+/)*"
    in_python, in_shell = re.escape(python_text(folder_name)), re.escape(shlex.quote(folder_name))
    text = re.sub(rf'(from_pretrained\("){parents}{in_python}(?=")', rf"\g<1>{repo}", text)
    text = re.sub(rf"(hfgen \w+ ){parents}{in_shell}(?=[\s`])", rf"\g<1>{repo}", text)
    if MARK in text:
        title = f"\n# {escape_markdown(folder_name)}\n"
        text = text.replace(title, f"\n# {repo.rpartition('/')[2]}\n", 1)
    return text


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Those of a folder that its card shows; `others` with their captions."""

    samples: bool
    loss: bool
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
        "sample_command": code_block(f"hfgen sample {shlex.quote(model.name)} --out samples.png", "sh"),
        "pictures": _pictures(model.folder, told),
        "limits": limits_text(told.limits, training),
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
            "quantity": escape_cell(results.likelihood.quantity if results.likelihood else "measured"),
            "metric_rows": metric_rows(results),
            "errors": has_errors(list(results.metrics.values())),
        }
    return values


def _pictures(folder: Path | None, told: Card) -> Pictures:
    def there(name: str) -> bool:
        return folder is not None and (folder / name).is_file()

    others = [{"name": name, "caption": text} for name, text in told.pictures.items() if there(f"{name}.png")]
    return Pictures(samples=there(SAMPLES_PICTURE), loss=there(LOSS_PICTURE), others=others)


def _same_results(card: ModelCard, results: EvaluationResult, name: str) -> bool:
    wanted = ModelCardData(model_name=name, eval_results=eval_results(results)).to_dict()
    return card.data.to_dict().get("model-index") == wanted["model-index"]


def _load_card(path: Path) -> ModelCard:
    try:
        return ModelCard(path.read_text(encoding="utf-8"))
    except Exception as error:  # whatever the YAML reader raises
        reason = " ".join(str(error).split())[:200]
        raise HfgenError(
            f"{path} is no valid model card ({reason}): mend its first block or remove the file"
        ) from error
