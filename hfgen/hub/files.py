"""Which files of a folder make its repository, and whether strangers may have them."""

from __future__ import annotations

import inspect
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from hfgen.core.errors import HfgenError
from hfgen.families.model import Model
from hfgen.hub.card import CARD_FILE, LOSS_PICTURE, RESULTS_FILE, SAMPLES_PICTURE, TRAINING_FILE
from hfgen.hub.loading import CLASS, INDEX, is_stock, named_classes, read_index

# what save_pretrained of diffusers and transformers writes into a component's folder
COMPONENT_FILES = (
    "config.json",
    "*_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.model",
)
RECORDS = (CARD_FILE, RESULTS_FILE, TRAINING_FILE, "samples.json", "sampling.json")
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz")
ORIGIN = "_name_or_path"
LINK = re.compile(r"""(?:\]\(<?|\bsrc=["'])([^)\s>"']+)""")
KEY = re.compile(
    rb"(?<![A-Za-z0-9])("
    rb"hf_[A-Za-z0-9]{30,}|(AKIA|ASIA)[A-Z0-9]{16}|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,}"
    rb"|sk-[A-Za-z0-9_-]{32,}|AIza[A-Za-z0-9_-]{35}|xox[abprs]-[A-Za-z0-9-]{20,})"
    rb"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
HEADER_LENGTH = 8  # of safetensors: the first bytes tell how many of JSON follow; what comes then are numbers


@dataclass(frozen=True, kw_only=True)
class RepositoryFiles:
    """`pushed`, relative to the folder and sorted, and `left`: names of what stays, a folder with a slash; hidden files untold."""

    pushed: list[Path]
    left: list[str]


def repository_files(folder: Path, model: Model, include: Sequence[str] = ()) -> RepositoryFiles:
    """The files of the folder of a model that belong to its repository, and the others.

    These belong to it: model_index.json, configs, weights, tokenizers and the code of what it names, the card, the figures,
    what the card links to, the JSON files that hfgen writes, and what a pattern of `include` names, or a folder that it does. Hidden
    files never do.

    Raises `HfgenError` for weights that are not safetensors, code that model_index.json names but the folder lacks or that
    is not hfgen's own (unless `include` names it), links out of the folder, and a pattern that names nothing.
    """
    index = read_index(folder, str(folder))
    code = _code(index)
    missing = [str(path) for path in code if not (folder / path).is_file()]
    if missing:
        raise HfgenError(
            f"{folder} lacks the code that {INDEX} names ({', '.join(missing)}), so that nobody could load it: load the "
            "pipeline and save it again with save_pretrained"
        )
    there = sorted(_walk(folder))
    named = _named(there, include, folder)
    pushed = {path for path in there if _belongs(path, index)} | {Path(INDEX), *code} | named
    pushed |= set(_told(folder, model, there))
    _check_pickled(folder, index, there, named)
    _check_links(folder, index, pushed)
    _check_own_code(folder, model, code, named)
    return RepositoryFiles(pushed=sorted(pushed), left=_summary(there, pushed))


def content(folder: Path, path: Path) -> bytes | Path:
    """What to upload of a file: itself, or for a config that tells where it was loaded from, the rest of it."""
    if path.suffix == ".json" and ORIGIN in (text := (folder / path).read_text(encoding="utf-8")):
        config = json.loads(text)
        if isinstance(config, dict):
            config.pop(ORIGIN, None)
        return (json.dumps(config, indent=2) + "\n").encode()
    return folder / path


def check_secrets(folder: Path, paths: Iterable[Path], tokens: Iterable[str | None]) -> None:
    """Raise `HfgenError` for a file that holds one of the tokens, or what looks like a key of some service."""
    secrets = [token.encode() for token in tokens if token]
    for path in paths:
        found = _secret(folder / path, secrets)
        if found:
            raise HfgenError(f"{path} holds {found}, and is not pushed: remove that, or the file, and withdraw the key")


def _secret(path: Path, secrets: Sequence[bytes]) -> str | None:
    if path.stat().st_size == 0:
        return None
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        if any(data.find(secret) >= 0 for secret in secrets):
            return "your token for the Hub"
        end = len(data)
        if path.suffix == ".safetensors":
            end = HEADER_LENGTH + int.from_bytes(data[:HEADER_LENGTH], "little")
        return "what looks like a secret key" if KEY.search(data, 0, end) else None


def _walk(folder: Path) -> Iterator[Path]:
    """Files below a folder, relative to it, without hidden ones; a folder that is a link counts as a file."""
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not _hidden(name)]
        for name in files:
            if not _hidden(name):
                yield Path(place, name).relative_to(folder)
        for name in folders:
            if Path(place, name).is_symlink():
                yield Path(place, name).relative_to(folder)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__pycache__"


def _belongs(path: Path, index: Mapping[str, Any]) -> bool:
    if len(path.parts) == 1:
        return path.name in RECORDS
    component, *rest = path.parts
    return (
        isinstance(index.get(component), list) and len(rest) == 1 and any(fnmatch(rest[0], p) for p in COMPONENT_FILES)
    )


def _told(folder: Path, model: Model, there: Sequence[Path]) -> Iterator[Path]:
    """The figures of its kind, and what its card links to."""
    figures = model.family.card(model.pipeline, model.name, None, None).pictures
    names = {SAMPLES_PICTURE, LOSS_PICTURE, *(f"{name}.png" for name in figures)}
    card = folder / CARD_FILE
    if card.is_file():
        names |= {unquote(link).removeprefix("./") for link in LINK.findall(card.read_text(encoding="utf-8"))}
    return (path for path in there if path.as_posix() in names)


def _named(there: Sequence[Path], include: Sequence[str], folder: Path) -> set[Path]:
    named = set()
    for pattern in include:
        wanted = pattern.removeprefix("./").rstrip("/")
        found = {p for p in there if any(fnmatch(q.as_posix(), wanted) for q in (p, *p.parents))}
        if not found:
            raise HfgenError(f"--include {pattern}: {folder} has no such file that is not hidden")
        named |= found
    return named


def _code(index: Mapping[str, Any]) -> dict[Path, str]:
    """The files that the index's classes must come from, and which key names them; diffusers brings its own."""
    return {
        Path("" if key == CLASS else key, f"{module}.py"): key
        for key, module, _ in named_classes(index)
        if module is not None and not is_stock(module)
    }


def _check_pickled(folder: Path, index: Mapping[str, Any], there: Sequence[Path], named: set[Path]) -> None:
    def of_the_pipeline(path: Path) -> bool:
        return len(path.parts) == 1 or isinstance(index.get(path.parts[0]), list)

    pickled = [p for p in there if p.suffix.lower() in PICKLED and (p in named or of_the_pipeline(p))]
    if pickled:
        raise HfgenError(
            f"{folder} has weights that are not safetensors ({', '.join(map(str, pickled))}), and loading such files can run code: "
            "save the pipeline with safe_serialization=True, or remove them"
        )


def _check_links(folder: Path, index: Mapping[str, Any], pushed: set[Path]) -> None:
    home = folder.resolve()
    out = [str(path) for path in sorted(pushed) if not _is_file_in(home, folder / path)]
    out += [key for key, module, _ in named_classes(index) if module and (folder / key).is_symlink()]
    if out:
        raise HfgenError(
            f"{folder} has links to what is not a file in it ({', '.join(out)}): put the files themselves there"
        )


def _is_file_in(home: Path, path: Path) -> bool:
    return path.is_file() and path.resolve().is_relative_to(home)


def _check_own_code(folder: Path, model: Model, code: Mapping[Path, str], named: set[Path]) -> None:
    for path, key in code.items():
        component = model.pipeline if key == CLASS else getattr(model.pipeline, key)
        own = Path(inspect.getfile(type(component)))
        if path not in named and (folder / path).read_bytes() != own.read_bytes():
            raise HfgenError(
                f"{path} differs from this hfgen's, and whoever trusts the repository runs it: load the pipeline and save "
                f"it again with save_pretrained, or read it and pass --include {path}"
            )


def _summary(there: Sequence[Path], pushed: set[Path]) -> list[str]:
    """What stays: a folder by its name alone if all of it does."""
    shared = {parent for path in pushed for parent in path.parents}
    left = []
    for path in there:
        if path not in pushed:
            alone = [parent for parent in path.parents if parent not in shared]
            name = f"{alone[-1].as_posix()}/" if alone else path.as_posix()
            if name not in left:
                left.append(name)
    return left
