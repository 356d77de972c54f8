"""Results as a table and as a JSON file."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from hfgen.errors import HfgenError

LIBRARIES = ("hfgen", "torch", "diffusers", "datasets")


def environment(device: torch.device) -> dict:
    """Versions and the kind of device that results were made with."""
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else f"{device.type}, {torch.get_num_threads()} threads"
    return {"device": name, "python": platform.python_version()} | {name: version(name) for name in LIBRARIES}


def format_table(results: dict) -> str:
    """Results of `evaluate_vae` for a terminal."""
    head = (
        f"{results['quantity']} ({results['likelihood']}), {results['images']} images of {results['dataset']}/"
        f"{results['split']}, {results['parameters']:,} parameters, {results['seconds']:.0f} s"
    )
    width = max(len(m["name"]) for m in results["metrics"].values())
    rows = [
        f"{m['name']:<{width}}  {m['mean']:>10.4f}  +- {m['standard_error']:.4f}  {m['unit']}"
        for m in results["metrics"].values()
    ]
    return "\n".join([head, *rows])


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
    """Write JSON, in one step."""
    beside = path.with_name(f".{path.name}")
    beside.write_text(json.dumps(results, indent=1) + "\n")
    os.replace(beside, path)
