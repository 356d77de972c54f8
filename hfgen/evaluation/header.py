"""What every file of results begins with."""

from __future__ import annotations

from pathlib import Path

from hfgen.environment import environment
from hfgen.evaluation.images import EvaluationImages


def header(kind: str, model, dataset_name: str, data: EvaluationImages, split: str, seed: int) -> dict:
    """Which model on which images; of a local dataset its folder's name alone."""
    return {
        "kind": kind,
        "parameters": sum(p.numel() for p in model.parameters()),
        "dataset": shown_dataset(dataset_name),
        "dataset_fingerprint": data.fingerprint,
        "split": split,
        "images": len(data.images),
        "seed": seed,
        "environment": environment(model.device),
    }


def shown_dataset(name: str) -> str:
    """A repository's name, or of a local folder the last part of its path."""
    return Path(name).resolve().name if Path(name).exists() else name
