"""Results as a table and as a JSON file."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

from hfgen.errors import HfgenError


def format_table(results: dict) -> str:
    """Results of `hfgen evaluate` for a terminal."""
    place = f"{results['images']} images of {results['dataset']}/{results['split']}"
    lines = [f"{results['kind']}, {results['parameters']:,} parameters, {place}"]
    if "quantity" in results:
        lines.append(f"{results['quantity']} ({results['likelihood']}), {results['seconds']:.0f} s{_budget(results)}")
    samples = results.get("samples")
    if samples is not None:
        lines.append(
            f"{samples['count']} samples ({samples['how']}, {samples['seconds_sampling']:.0f} s) against "
            f"{samples['reference']} images, features of the {samples['features']}"
        )
    width = max(len(m["name"]) for m in results["metrics"].values())
    return "\n".join([*lines, *(_row(m, width) for m in results["metrics"].values())])


def _budget(results: dict) -> str:
    if "evaluations" not in results:
        return ""
    return f", {results['evaluations']:,} network evaluations, {'every' if results['exact'] else 'sampled'} t"


def _row(metric: dict, width: int) -> str:
    error = metric["standard_error"]
    spread = "" if error is None or math.isnan(error) else f"  +- {error:.4f}"
    return f"{metric['name']:<{width}}  {metric['mean']:>10.4f}{spread}  {metric['unit']}".rstrip()


def check_writable(path: Path):
    """Raise `HfgenError` now for a file that could not be written after the work is done."""
    if path.is_dir():
        raise HfgenError(f"--out {path} is a folder: name a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HfgenError(f"--out {path}: {path.parent} is no folder ({error.strerror}): name another") from error
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise HfgenError(f"--out {path}: no permission to write to {path.parent}: name another")


def save_json(results: dict, path: Path):
    """Write JSON, in one step; nan, which it does not have, as null. `HfgenError` for a full disk."""
    save_text(json.dumps(_without_nan(results), indent=1, allow_nan=False) + "\n", path)


def save_text(text: str, path: Path):
    """Write a text file, in one step; `HfgenError` for a full disk."""
    beside = path.with_name(f".{path.name}")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise HfgenError(f"{path} cannot be written ({error.strerror}): make room or name another") from error


def _without_nan(value):
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value
