"""Which files of a folder make its repository, and whether a stranger could load them."""

from __future__ import annotations

import json
from fnmatch import fnmatch
from pathlib import Path

from hfgen.errors import HfgenError
from hfgen.loading import INDEX

TRAINING_STATE = ("checkpoint-*/*", "logs/*", "samples/*", "history.jsonl")
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz")
ORIGIN = "_name_or_path"


def repository_files(folder: Path) -> list[Path]:
    """The files of a pipeline's folder, without training state and hidden ones, relative to it and sorted.

    Raises `HfgenError` for weights that are not safetensors and for code that `model_index.json` names but the folder lacks.
    """
    paths = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    paths = [p for p in paths if not _hidden(p) and not any(fnmatch(p.as_posix(), kind) for kind in TRAINING_STATE)]
    pickled = [str(p) for p in paths if p.suffix.lower() in PICKLED]
    if pickled:
        raise HfgenError(
            f"{folder} has weights that are not safetensors ({', '.join(pickled)}), and loading such files can run code: "
            "save the pipeline with safe_serialization=True, or remove them"
        )
    missing = [str(p) for p in _code(folder) if p not in paths]
    if missing:
        raise HfgenError(
            f"{folder} lacks the code that {INDEX} names ({', '.join(missing)}), so that nobody could load it: load the "
            "pipeline and save it again with save_pretrained"
        )
    return paths


def content(folder: Path, path: Path) -> bytes | Path:
    """What to upload of a file: itself, or for a config that tells where it was loaded from, the rest of it."""
    if path.suffix == ".json" and ORIGIN in (text := (folder / path).read_text()):
        config = json.loads(text)
        config.pop(ORIGIN, None)
        return (json.dumps(config, indent=2) + "\n").encode()
    return folder / path


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in path.parts)


def _code(folder: Path) -> list[Path]:
    """The files that the index's classes must come from; diffusers brings its own."""
    index = json.loads((folder / INDEX).read_text())
    pipeline = index.get("_class_name")
    parts = {name: value for name, value in index.items() if isinstance(value, list) and (folder / name).is_dir()}
    ours = [
        Path(name) / f"{module}.py"
        for name, (module, _) in parts.items()
        if module not in ("diffusers", "transformers", None)
    ]
    if isinstance(pipeline, list):
        return [Path(f"{pipeline[0]}.py"), *ours]
    return ours
