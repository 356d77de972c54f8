"""Model cards, from what lies in a pipeline's folder."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hfgen.errors import HfgenError
from hfgen.hub.describe import describe
from hfgen.pipelines import UnconditionalDiffusionPipeline, VAEPipeline

CARD_FILE, RESULTS_FILE, TRAINING_FILE = "README.md", "results.json", "training.json"
MARK = (
    "<!-- written by hfgen from the files beside it, and written anew while this line stands; the license is kept -->"
)
TEMPLATE = Path(__file__).with_name("card_template.md")
LICENSE = "apache-2.0"
TASK = "unconditional-image-generation"
DATASET_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")  # the Hub refuses a card with another one, such as a folder's
CAPTIONS = {
    "reconstructions": "Held-out images, each above its reconstruction.",
    "manifold": "The plane of the two latents, at the quantiles of N(0, 1): each image stands for the same share of p(z).",
    "latents": "Means of q(z\\|x) of held-out images; of more than two latents the first two principal components.",
    "interpolations": "Spherical interpolations between held-out images.",
    "results_terms": "The terms of the bound over t.",
}

Pipeline = UnconditionalDiffusionPipeline | VAEPipeline


def refresh_card(folder: Path, pipeline: Pipeline) -> Path:
    """Write README.md of a pipeline's folder from its configs, pictures, training.json and results.json.

    A card that somebody has written or taken over (without the line that marks a generated one) keeps its text: only its
    `model-index`, the measured results, is brought up to date. Returns the card's path.

    Raises `HfgenError` for a card or JSON file that cannot be read.
    """
    path = folder / CARD_FILE
    training, results = (_read_json(folder / name) for name in (TRAINING_FILE, RESULTS_FILE))
    present = _load_card(path) if path.is_file() else None
    if present is None or MARK in present.text:
        license = (present.data.license if present else None) or LICENSE
        card = render_card(folder, pipeline, training, results, license)
    elif results is None or _same_results(present, results, folder):
        return path
    else:
        card = present
        card.data.model_name, card.data.eval_results = folder.resolve().name, eval_results(results)
    beside = path.with_name(f".{path.name}")
    beside.write_text(f"{card}".rstrip() + "\n")
    os.replace(beside, path)
    return path


def is_generated(path: Path) -> bool:
    """Whether a card is there and has the line that marks those which hfgen writes."""
    return path.is_file() and MARK in path.read_text()


def render_card(
    folder: Path, pipeline: Pipeline, training: dict | None = None, results: dict | None = None, license: str = LICENSE
) -> ModelCard:
    """The card of a folder by the template; `training` and `results` are its two JSON files, if there are any."""
    name = folder.resolve().name
    dataset = (training or {}).get("dataset")
    data = ModelCardData(
        license=license,
        library_name="diffusers",
        pipeline_tag=TASK,
        tags=["diffusers", "vae" if isinstance(pipeline, VAEPipeline) else "ddpm", "hfgen"],
        datasets=[dataset] if dataset and "/" in dataset else None,
        model_name=name if results else None,
        eval_results=eval_results(results) if results else None,
    )
    facts = describe(pipeline, training, results)
    return ModelCard.from_template(
        data, template_path=str(TEMPLATE), mark=MARK, name=name, title=name, pictures=_pictures(folder), **facts
    )


def eval_results(results: dict) -> list[EvalResult]:
    """The metrics of an evaluation file as the Hub's metadata, to four decimals; the floors, of real images, are left out."""
    return [
        EvalResult(
            task_type=TASK,
            dataset_type=results["dataset"] if DATASET_ID.fullmatch(results["dataset"]) else "unknown",
            dataset_name=results["dataset"],
            dataset_split=results["split"],
            metric_type=key,
            metric_name=f"{metric['name']}, {metric['unit']}" if metric["unit"] else metric["name"],
            metric_value=round(metric["mean"], 4),
        )
        for key, metric in results["metrics"].items()
        if not key.endswith("_floor")
    ]


def with_repository(text: str, folder_name: str, repo: str) -> str:
    """A card's text whose code loads `repo` where it loaded the folder of that name."""
    place = rf"(?:[\w.-]+/)*{re.escape(folder_name)}"
    return re.sub(rf'(from_pretrained\("|hfgen \w+ ){place}(?=["\s`])', rf"\g<1>{repo}", text)


def _same_results(card: ModelCard, results: dict, folder: Path) -> bool:
    wanted = ModelCardData(model_name=folder.resolve().name, eval_results=eval_results(results)).to_dict()
    return card.data.to_dict().get("model-index") == wanted["model-index"]


def _pictures(folder: Path) -> dict:
    def there(name):
        return (folder / f"{name}.png").is_file()

    others = [{"name": name, "caption": caption} for name, caption in CAPTIONS.items() if there(name)]
    return {"samples": there("samples"), "loss": there("loss"), "others": others}


def _read_json(path: Path) -> dict | None:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise HfgenError(f"{path} cannot be read ({error}): make it anew or remove it") from error


def _load_card(path: Path) -> ModelCard:
    try:
        return ModelCard(path.read_text())
    except Exception as error:  # whatever the YAML reader raises
        reason = " ".join(str(error).split())[:200]
        raise HfgenError(
            f"{path} is no valid model card ({reason}): mend its first block or remove the file"
        ) from error
