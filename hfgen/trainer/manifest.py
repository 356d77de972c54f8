"""Which files of a folder trainings wrote: they remove no other."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath

from hfgen.core.errors import HfgenError
from hfgen.core.files import read_json, write_json

HIDDEN = ".hfgen"
MANIFEST_FILE = "manifest.json"
SCHEMA_VERSION = 1


class Manifest:
    """The names of the files that trainings wrote into a folder, kept in its .hfgen/manifest.json.

    A name is listed before its file is written, so that what a kill leaves is known too.

    Attributes:
        files: names relative to the folder, with slashes.

    Raises `HfgenError` for a list that is damaged.
    """

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / HIDDEN / MANIFEST_FILE
        self.exists = self.path.is_file()
        self.files = _read(self.path) if self.exists else frozenset()

    def add(self, *names: str) -> None:
        """List names of files that are about to be written."""
        if not self.exists or not self.files.issuperset(names):
            self._save(self.files | set(names))

    def remove(self, names: Iterable[str]) -> None:
        """Remove those of the names that are listed, then the folders that this has left empty.

        Where a link leads to a file, or is there in its place, the link is removed and what it points to stays.
        """
        listed = [name for name in names if name in self.files]
        for name in listed:
            _remove(self.folder, PurePosixPath(name))
        parents = {parent for name in listed for parent in list(PurePosixPath(name).parents)[:-1]}
        for parent in sorted(parents, key=lambda p: len(p.parts), reverse=True):
            with suppress(OSError):  # it is not empty, or was a link
                (self.folder / parent).rmdir()
        if listed:
            self._save(self.files - set(listed))

    def forget_missing(self) -> None:
        """Take from the list what is not there."""
        there = {name for name in self.files if (self.folder / name).is_file()}
        if there != self.files:
            self._save(there)

    def _save(self, files: Iterable[str]) -> None:
        self.files, self.exists = frozenset(files), True
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, {"schema_version": SCHEMA_VERSION, "files": sorted(self.files)})


def _read(path: Path) -> frozenset[str]:
    value = read_json(path)
    files = value.get("files") if isinstance(value, dict) else None
    if not isinstance(files, list) or not all(map(_is_name, files)):
        raise HfgenError(f"{path} is no list of a training's files: name another folder, or remove what is not needed")
    return frozenset(files)


def _is_name(name: object) -> bool:
    """Whether it is the relative name of a file below the folder."""
    if not isinstance(name, str) or not name or "\\" in name or "\0" in name:
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and path.parts[:1] not in ((), (HIDDEN,))


def _remove(folder: Path, name: PurePosixPath) -> None:
    place = folder
    for part in name.parts:
        place /= part
        if place.is_symlink():
            place.unlink()
            return
    if place.is_file():
        place.unlink()
