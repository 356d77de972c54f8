"""Work that is broken off and taken up again: tensors by name in a folder that lives as long as the work."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from hfgen.core.errors import HfgenError
from hfgen.core.files import whole, write_text
from hfgen.core.processes import is_first, on_first, tell

SETTINGS = "settings.json"
SAVE_SECONDS = 30
DIGEST = "digest"


class Resumable:
    """Parts of a piece of work on disk, kept while `settings` are the same; a Resumable of None keeps nothing.

    Of several processes that work together the first reads and writes, and all know what it has read.

    Each part carries a digest of its tensors, its name and the settings. What is not as it was written is removed, with a
    line on stderr, and done anew.

    Raises `HfgenError` for a folder that cannot be made.
    """

    def __init__(self, folder: Path | None, settings: Mapping[str, Any] | None = None):
        self.folder, self.prefix = folder, ""
        self.settings = json.dumps(settings, sort_keys=True)
        if folder is not None:
            on_first(partial(_prepare, folder, self.settings))

    def under(self, prefix: str) -> Resumable:
        """The same, for parts whose names then begin so: work of the same kind is kept apart."""
        other = copy.copy(self)
        other.prefix = f"{self.prefix}{prefix}-"
        return other

    def load(self, name: str) -> dict[str, torch.Tensor] | None:
        """The tensors that `save` wrote under this name, None if there are none that can be used."""
        return None if self.folder is None else on_first(lambda: self._found(f"{self.prefix}{name}"))

    def _found(self, name: str) -> dict[str, torch.Tensor] | None:
        path = self._path(name)
        found = self._read(path, name)
        if found is None and _is_there(path):
            tell_anew(path, "it is")
            remove(path)
        return found

    def save(self, name: str, tensors: dict[str, torch.Tensor]) -> None:
        """Write, in one step; `HfgenError` for a full disk."""
        if self.folder is None or not is_first():
            return
        name = f"{self.prefix}{name}"
        path = self._path(name)
        try:
            with whole(path) as beside:
                save_file(tensors, beside, metadata={DIGEST: tensors_digest(tensors, name, self.settings)})
        except Exception as error:  # safetensors has errors of its own for a full disk
            raise HfgenError(
                f"{path} cannot be written ({error}): make room and start again, it goes on from there"
            ) from error

    def finish_if_empty(self) -> None:
        """`finish` if nothing was saved: the work was refused."""
        if self.folder is not None and is_first() and not _parts(self.folder):
            self.finish()

    def finish(self) -> None:
        """Remove everything: the work is done."""
        if self.folder is not None and is_first():
            shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{name}.safetensors"

    def _read(self, path: Path, name: str) -> dict[str, torch.Tensor] | None:
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no mapping)
                digest = (file.metadata() or {}).get(DIGEST)
        except Exception:  # whatever the reader of a damaged file raises, it is damaged
            return None
        return tensors if digest == tensors_digest(tensors, name, self.settings) else None


def tensors_digest(tensors: Mapping[str, torch.Tensor], *words: str) -> str:
    """sha256, in hexadecimal, of names, types, shapes and values of tensors, and of what else belongs to them."""
    digest = hashlib.sha256(json.dumps(words).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def tell_anew(path: Path, what: str) -> None:
    """Say on stderr that a part of unfinished work is of no use."""
    tell(f"{path} is damaged: {what} done anew")


def remove(path: Path) -> None:
    """Remove whatever is there, a link without what it points to; what cannot be removed stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise HfgenError(f"{path} cannot be removed ({error.strerror}): remove it and start again") from error


def _prepare(folder: Path, settings: str) -> None:
    """A folder of these settings: what there is of others is removed."""
    found = _json_text(folder / SETTINGS)
    if found == settings:
        return
    if _parts(folder) and found is None:
        tell_anew(folder / SETTINGS, "all is")
    elif _parts(folder):
        tell(f"{folder} holds work of other settings: all is done anew")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise HfgenError(f"{folder} cannot be written ({error.strerror}): remove it or make room") from error
    write_text(folder / SETTINGS, settings)


def _parts(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*") if path.name != SETTINGS] if folder.is_dir() else []


def _is_there(path: Path) -> bool:
    return path.is_symlink() or path.exists()


def _json_text(path: Path) -> str | None:
    """Of a plain file that holds JSON, else None."""
    try:
        text = path.read_text(encoding="utf-8") if path.is_file() else "?"
        json.loads(text)
    except (OSError, ValueError, RecursionError):
        return None
    return text
