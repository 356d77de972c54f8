"""The output folder: whose it is, and files that appear whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from hfgen.configs.training import TrainingConfig
from hfgen.core.errors import HfgenError, refused
from hfgen.core.files import left_beside
from hfgen.hub.card import CARD_FILE, is_generated
from hfgen.trainer.checkpoints import STATE_FILE, checkpoints, half_removed, reason, written_files
from hfgen.trainer.lock import locked
from hfgen.trainer.manifest import HIDDEN, Manifest

UNFINISHED = "unfinished-"
GRID_NAME = re.compile(r"samples/step-(\d+)\.png")


class OutputFolder:
    """The folder that a training writes into; one process of it does.

    Raises `HfgenError` for a damaged list of what trainings wrote there.
    """

    def __init__(self, path: Path):
        self.path, self.manifest = path, Manifest(path)

    def begin(self, *names: str, overwrite: bool) -> None:
        """Make it a training's, which writes these files first.

        What an earlier one wrote is removed if it is to be overwritten, as is what a kill left half done. A card that somebody has
        taken over stays.
        """
        if overwrite:
            kept = {CARD_FILE} if not is_generated(self.path / CARD_FILE) else set()
            # a kill in the middle must leave no checkpoint to go on from
            self.manifest.remove(sorted(self.manifest.files - kept, key=lambda name: not name.endswith(STATE_FILE)))
        self._remove_unfinished()
        self.manifest.remove(half_removed(self.path, self.manifest.files))
        self.manifest.forget_missing()
        # a list that got lost does not keep a training from going on
        earlier = [name for checkpoint in checkpoints(self.path) for name in written_files(checkpoint)]
        self.manifest.add(*names, *earlier)

    def _remove_unfinished(self) -> None:
        """What a killed process was filling: folders, and files beside those that they were to become."""
        for path in self.path.joinpath(HIDDEN).glob(f"{UNFINISHED}*"):
            shutil.rmtree(path, ignore_errors=True)
        for part in left_beside([self.manifest.path, *(self.path / name for name in self.manifest.files)]):
            part.unlink()

    def cut(self, step: int) -> None:
        """Remove the grids of later steps, which this training draws anew, if it draws them."""
        grids = [(name, GRID_NAME.fullmatch(name)) for name in self.manifest.files]
        self.manifest.remove([name for name, match in grids if match and int(match[1]) > step])

    def grid(self, step: int) -> Path:
        """Where the grid of samples after a step goes."""
        return self.own(f"samples/step-{step:07d}.png")

    def own(self, name: str) -> Path:
        """The path of a file that is about to be written, in a folder that is there."""
        self.manifest.add(name)
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def files_below(self, name: str) -> set[str]:
        """The names of the files that are in one of its folders."""
        return {path.relative_to(self.path).as_posix() for path in (self.path / name).rglob("*") if path.is_file()}

    @contextmanager
    def beside(self) -> Iterator[Path]:
        """A new folder to fill, on the same disk, which does not last."""
        path = self.path / HIDDEN / f"{UNFINISHED}{uuid.uuid4().hex}"
        path.mkdir(parents=True)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def save(self, write: Callable[[Path], object]) -> None:
        """Let `write` fill a folder, then move its files into this one, each replaced in one step; `HfgenError` for a full disk."""
        try:
            with self.beside() as beside:
                write(beside)
                files = sorted(p for p in beside.rglob("*") if p.is_file())
                self.manifest.add(*(p.relative_to(beside).as_posix() for p in files))
                for path in files:
                    target = self.path / path.relative_to(beside)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    path.chmod(0o644)  # safetensors leaves its files to their owner alone
                    os.replace(path, target)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise HfgenError(
                f"the pipeline cannot be written to {self.path} ({reason(error)}): make room, then start again with "
                "--resume_from_checkpoint latest"
            ) from error


@contextmanager
def claimed(config: TrainingConfig) -> Iterator[None]:
    """Make the output folder and hold its lock; where no training began in it, what was made is removed in the end.

    Raises `HfgenError` as `check_output_dir` and `locked`, and when there can be no such folder.
    """
    check_output_dir(config)
    folder, hidden = config.output_dir, config.output_dir / HIDDEN
    made = not folder.exists()
    try:
        hidden.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HfgenError(f"output_dir={str(folder)!r} cannot be made: {refused(error)}") from error
    with locked(folder):
        try:
            check_output_dir(config)  # another training may have been there until now
            yield
        finally:
            if not Manifest(folder).exists:
                shutil.rmtree(hidden, ignore_errors=True)
                if made:
                    with suppress(OSError):
                        folder.rmdir()


def check_output_dir(config: TrainingConfig) -> None:
    """Raise `HfgenError` for an output folder that is no folder, or holds what this training must not touch.

    That is an earlier training that is neither to be overwritten nor resumed, and files that no training wrote.
    """
    run, folder = config.run, config.output_dir
    shown = f"output_dir={str(folder)!r}"
    if run.output_dir == "":
        raise HfgenError("output_dir='' is no name: name a folder")
    if folder.exists() and not folder.is_dir():
        raise HfgenError(f"{shown} is a file: name a folder")
    if not folder.is_dir() or all(path.name == HIDDEN for path in folder.iterdir()):
        return
    listed, resuming = Manifest(folder).exists, run.resume_from_checkpoint is not None
    if listed and not resuming and not run.overwrite_output_dir:
        raise HfgenError(
            f"{shown} is not empty: pass --resume_from_checkpoint latest to go on, "
            "--overwrite_output_dir to replace it, or another folder"
        )
    if not listed and not (resuming and checkpoints(folder)):
        raise HfgenError(
            f"{shown} is not empty and does not look like a training's, which would be listed in {HIDDEN}: nothing in it is "
            "touched; name another folder"
        )
