"""The trained models that the page shows, and what each is good for: its family is asked, no model is known by name."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import yaml

import hfgen
from hfgen.core.errors import HfgenError
from hfgen.families.model import Model

FLAG = re.compile(r"--(\w+)")
FOLDER, INDEX, CARD = "model_cards", "model_index.json", "README.md"


def places(here: Path) -> list[str]:
    """Folders and repositories of the models: those beside the page and those that its card names, else those of the clone around it."""
    named = [str(path.parent) for path in sorted((here / FOLDER).glob(f"*/{INDEX}"))] + _in_card(here / CARD)
    return named or [str(path.parent) for path in sorted((here.parent / FOLDER).glob(f"*/{INDEX}"))]


def load_all(places: Sequence[str]) -> dict[str, Model]:
    """The models by name; one that cannot be loaded is told on stderr and left out."""
    models = {}
    for place in places:
        try:
            model = hfgen.load(place)
        except HfgenError as error:
            print(f"left out: {error}", file=sys.stderr)
        else:
            models[model.name] = model
    return models


def options(model: Model) -> set[str]:
    """Names of what can be chosen when it draws."""
    return {item.name for item in fields(model.family.sampling_options)}


def drawing(models: Mapping[str, Model]) -> dict[str, Model]:
    """Those that draw without being told anything."""
    return {name: model for name, model in models.items() if model.family.draws and not _asked(model)}


def of_words(models: Mapping[str, Model]) -> dict[str, Model]:
    """Those that draw from words alone."""
    return {name: model for name, model in models.items() if _asked(model) == {"prompt"}}


def planes(models: Mapping[str, Model]) -> dict[str, Model]:
    """Those whose latents are a plane."""
    return {name: model for name, model in models.items() if model.family.plane(model.pipeline) is not None}


def _asked(model: Model) -> set[str]:
    return set(FLAG.findall(model.family.asks))


def _in_card(card: Path) -> list[str]:
    """`models:` of the block at the head, as the Hub reads it."""
    _, head, _ = card.read_text(encoding="utf-8").split("---", 2)
    return yaml.safe_load(head).get("models", [])
