"""Work that is broken off and taken up again: tensors by name in a folder that lives as long as the work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from hfgen.core.errors import HfgenError
from hfgen.core.files import whole

SETTINGS = "settings.json"
SAVE_SECONDS = 30


class Resumable:
    """Parts of a piece of work on disk, kept while `settings` are the same; a Resumable of None keeps nothing.

    Raises `HfgenError` for a folder that cannot be made.
    """

    def __init__(self, folder: Path | None, settings: dict | None = None):
        self.folder = folder
        if folder is None:
            return
        wanted = json.dumps(settings, sort_keys=True)
        path = folder / SETTINGS
        if path.is_file() and path.read_text() == wanted:
            return
        shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.mkdir(parents=True)
            path.write_text(wanted)
        except OSError as error:
            raise HfgenError(f"{folder} cannot be written ({error.strerror}): remove it or make room") from error

    def load(self, name: str) -> dict[str, torch.Tensor] | None:
        """The tensors that `save` wrote under this name, None if there are none."""
        path = self.folder / f"{name}.safetensors" if self.folder is not None else None
        return load_file(path) if path is not None and path.is_file() else None

    def save(self, name: str, tensors: dict[str, torch.Tensor]):
        """Write, in one step; `HfgenError` for a full disk."""
        if self.folder is None:
            return
        path = self.folder / f"{name}.safetensors"
        try:
            with whole(path) as beside:
                save_file(tensors, beside)
        except Exception as error:  # safetensors has errors of its own for a full disk
            raise HfgenError(
                f"{path} cannot be written ({error}): make room and start again, it goes on from there"
            ) from error

    def finish_if_empty(self):
        """`finish` if nothing was saved: the work was refused."""
        if self.folder is not None and [path.name for path in self.folder.iterdir()] == [SETTINGS]:
            self.finish()

    def finish(self):
        """Remove everything: the work is done."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
