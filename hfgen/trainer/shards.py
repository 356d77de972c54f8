"""The tensors of a checkpoint: whole ones by file, and those in parts as torch.distributed.checkpoint writes them.

That writes safetensors here, with what of a tensor lies where in their headers, so that a checkpoint holds no pickle. Either kind
is read into tensors that are whole or in parts, on any number of processes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import CheckpointException, HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.tensor import DTensor

from hfgen.core.errors import HfgenError, explain
from hfgen.trainer.checkpoints import read_state, read_tensors
from hfgen.trainer.parts import fill

# in the state of a checkpoint: the names of the files that there would be if their tensors were whole
SHARDED = "sharded"
Tensors = dict[str, torch.Tensor]
Room = Callable[[str, torch.Tensor], torch.Tensor]


def in_parts(files: Mapping[str, Tensors]) -> dict[str, Tensors]:
    """Those of the files of which a tensor lies in parts."""
    return {name: tensors for name, tensors in files.items() if any(isinstance(t, DTensor) for t in tensors.values())}


def write_shards(folder: Path, files: Mapping[str, Tensors]) -> None:
    """Write what each process has of the tensors into the folder; call it on every process.

    Raises `HfgenError` on all of them for what one cannot write.
    """
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        dcp.save(_keyed(files), storage_writer=writer)
    except CheckpointException as error:
        raise HfgenError(_first_failure(error)) from error


def check_shards(folder: Path, files: Mapping[str, Tensors]) -> None:
    """Raise `HfgenError` unless the folder holds all of the tensors: processes of several machines may write to disks of their own."""
    found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    for key, tensor in _keyed(files).items():
        stored = sum(math.prod(chunk.sizes) for chunk in found[key].chunks) if key in found else 0
        if stored != tensor.numel():
            raise HfgenError("a process has written elsewhere: name an output_dir on a disk that all machines share")


class Stored:
    """The tensors of a checkpoint, by the names of its files."""

    def __init__(self, checkpoint: Path):
        self.checkpoint, self.sharded = checkpoint, read_state(checkpoint).get(SHARDED, [])

    def read(self, name: str) -> Tensors:
        """A file of whole tensors."""
        return read_tensors(self.checkpoint, name)

    def into(self, name: str, room: Room) -> Tensors:
        """The tensors of a file, each copied into what `room` returns for its name and for a tensor of its shape and dtype.

        `ValueError` where that is of another shape.
        """
        if name in self.sharded:
            targets = {key: room(key, kind) for key, kind in self._kinds(name).items()}
            self._load(_keyed({name: targets}))
            return targets
        targets = {}
        for key, value in self.read(name).items():
            targets[key] = room(key, value)
            fill(targets[key], value)
        return targets

    def fill(self, name: str, targets: Tensors) -> None:
        """Copy the tensors of a file into those of the same names; `ValueError` where names or shapes differ."""
        found = self.into(name, lambda key, kind: targets.get(key, torch.empty_like(kind, device="cpu")))
        differing = sorted(found.keys() ^ targets.keys())
        if differing:
            raise ValueError(f"{name}: {', '.join(differing[:3])} there or here alone")

    def _kinds(self, name: str) -> Tensors:
        """A tensor of the shape and dtype of each, on the device "meta"."""
        found = self._reader().read_metadata().state_dict_metadata
        prefix = _prefix(name)
        return {
            key.removeprefix(prefix): torch.empty(one.size, dtype=one.properties.dtype, device="meta")
            for key, one in found.items()
            if key.startswith(prefix)
        }

    def _load(self, targets: Tensors) -> None:
        """By each process for itself, which torch warns of."""
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="torch.distributed is disabled")
                dcp.load(targets, storage_reader=self._reader(), no_dist=True)
        except CheckpointException as error:
            raise ValueError(_first_failure(error)) from error

    def _reader(self) -> HuggingFaceStorageReader:
        return HuggingFaceStorageReader(str(self.checkpoint))


def _prefix(name: str) -> str:
    return f"{name.removesuffix('.safetensors')}/"


def _keyed(files: Mapping[str, Tensors]) -> dict[str, torch.Tensor]:
    return {f"{_prefix(name)}{key}": value for name, tensors in files.items() for key, value in tensors.items()}


def _first_failure(error: CheckpointException) -> str:
    return explain(next(iter(error.failures.values()))[0])
