"""Training images that are read, shuffled and decoded as they are needed, by worker processes that run ahead of the training."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, repeat
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import fsspec.asyn
import numpy as np
import torch
from accelerate.utils import gather_object
from datasets.utils.file_utils import xopen
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from hfgen.core.errors import HfgenError, one_line
from hfgen.core.memory import local_processes
from hfgen.data.decode import ImageReader
from hfgen.data.loading import from_workers, outlive_signals
from hfgen.data.shuffling import Entry, Lane, Shards

LANES = 8
STEPS_AHEAD = 2
PREFIX = "lane."
MicroBatch = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]


class Segment(NamedTuple):
    """What lanes give to a step: uint8 images (n, C, H, W), classes (n,), the rows' numbers (n,), and the state of each lane after it."""

    images: torch.Tensor
    labels: torch.Tensor | None
    rows: torch.Tensor
    states: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class ImageStream:
    """Training images without end and without a length.

    They are read in lanes, each of which takes its part of the shards; a step's whole batch is made of as many rows of each. Lanes
    are shared out over the processes. What a step sees depends on their number, not on that of the processes.

    Attributes:
        image_column, label_column: None for the latter without classes.
        buffer_size: rows of the shuffle buffer, over all lanes.
        epoch_steps: optimizer steps that count as an epoch.
        encode: from uint8 images on the device to what the model is trained on; None: they are that.
    """

    shards: Shards
    reader: ImageReader
    image_column: str
    label_column: str | None
    buffer_size: int
    seed: int
    device: torch.device
    epoch_steps: int
    encode: Callable[[torch.Tensor], torch.Tensor] | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What a training depends on of the stream beside its first images, as JSON values."""
        names = "\n".join(PurePosixPath(name).name for name in self.shards.names)
        return {
            "streaming": True,
            "shuffle_buffer_size": self.buffer_size,
            "shards": f"{self.shards.count} {hashlib.sha256(names.encode()).hexdigest()[:12]}",
        }

    @property
    def told(self) -> list[str]:
        """What a user should know of it, in sentences."""
        count = len(self.shards.usable)
        return [
            f"a stream of {count:,} shard{'s' * (count > 1)}, of whose images only the first were looked at: the others are made the "
            "same, and one that cannot be read ends the training"
        ]

    def lanes(self, rows: int, num_processes: int) -> int:
        """How many there are, where each process takes `rows` rows of a step; `HfgenError` for fewer shards than processes.

        It is the same for 1, 2, 4 and 8 processes where the batch and the shards allow for 8.
        """
        shards = len(self.shards.usable)
        if shards < num_processes:
            raise HfgenError(
                f"{num_processes} processes are more than the {shards} shards that a stream can be shared out by: start {shards}, or "
                "write the images in more files"
            )
        most = min(shards, max(LANES, num_processes))
        return num_processes * max(k for k in range(1, most // num_processes + 1) if rows % k == 0)

    def share(self, *, rows: int, num_processes: int, process_index: int) -> StreamShare:
        """What a process takes, `rows` rows in each step; errors as `lanes`."""
        lanes = self.lanes(rows, num_processes)
        each = lanes // num_processes
        own = range(process_index * each, (process_index + 1) * each)
        return StreamShare(self, lanes=lanes, own=own, rows=rows // each)

    def lane(self, lane: int, lanes: int, state: torch.Tensor | None) -> Lane:
        """A lane at its beginning, or where a state says."""
        capacity = max(1, self.buffer_size // lanes)
        made = Lane(self.shards, lane=lane, lanes=lanes, capacity=capacity, seed=self.seed)
        if state is not None:
            made.go_on_from(state)
        return made

    def segment(self, lanes: Sequence[Lane], rows: int) -> Segment:
        """The next rows of each lane; `HfgenError` for an image that cannot be read and for a row without a class."""
        entries = [entry for lane in lanes for entry in islice(lane, rows)]
        images = np.stack([self._decoded(entry) for entry in entries])
        labels = None if self.label_column is None else torch.tensor([self._label(entry) for entry in entries])
        numbers = torch.tensor([entry.number for entry in entries])
        return Segment(torch.from_numpy(images), labels, numbers, torch.stack([lane.state() for lane in lanes]))

    def _decoded(self, entry: Entry) -> np.ndarray:
        place = self._place(entry)
        return self.reader.named(entry.number, _fetched(entry.values[self.image_column], place), place)

    def _label(self, entry: Entry) -> int:
        label = entry.values[self.label_column]
        if label is None or (isinstance(label, int) and label < 0):  # -1 is how `datasets` writes it
            raise HfgenError(f"label_column={self.label_column!r} has no class in row {self._place(entry)}: fill it in")
        return label

    def _place(self, entry: Entry) -> str:
        return f"{entry.row} of {self.shards.place(entry.shard)}"


class StreamShare:
    """The part of a stream that a process takes, and how far it has come.

    Attributes:
        lanes: of the stream.
        own: those of the process.
        rows: of each lane in a step.
    """

    def __init__(self, stream: ImageStream, *, lanes: int, own: range, rows: int):
        self.stream, self.lanes, self.own, self.rows = stream, lanes, own, rows
        self.states: dict[int, torch.Tensor] = {}
        self.steps: Generator[list[Segment], None, None] | None = None

    def micro_batches(self, steps: int, size: int) -> Iterator[MicroBatch]:
        """Of so many steps, each in parts of `size` rows: row numbers on the CPU, data and classes on the device.

        Once a step's first part is taken, the state is that after this step.
        """
        for _ in range(steps):
            self.steps = self.steps or self._read()
            segments = next(self.steps)
            self.states = dict(zip(self.own, torch.cat([part.states for part in segments]), strict=True))
            rows = torch.cat([part.rows for part in segments]).split(size)
            raw = self._joined([part.images for part in segments]).split(size)
            classes = [part.labels for part in segments if part.labels is not None]
            labels = self._joined(classes).split(size) if classes else repeat(None)
            for number, data, label in zip(rows, raw, labels, strict=False):
                yield number, data if self.stream.encode is None else self.stream.encode(data), label

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Where each lane of each process is; call it on every process."""
        everyones = gather_object([self.states])
        return {f"{PREFIX}{lane}": state.clone() for states in everyones for lane, state in states.items()}

    def load_state_dict(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go on from what `state_dict` gave, on any number of processes with as many lanes."""
        self.states, self.steps = {lane: tensors[f"{PREFIX}{lane}"] for lane in self.own}, None

    def close(self) -> None:
        """End the worker processes; `micro_batches` starts them again where they were."""
        if self.steps is not None:
            self.steps.close()
            self.steps = None

    def _joined(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.cat([part.to(self.stream.device, non_blocking=True) for part in parts])

    def _read(self) -> Generator[list[Segment], None, None]:
        """The segments of each step, one of each worker, in the order of the lanes."""
        count = len(self.own)
        most = max(1, min(LANES, processors() // local_processes()))
        workers = max(n for n in range(1, count + 1) if count % n == 0 and n <= most)
        loader = DataLoader(
            Segments(self),
            batch_size=None,
            num_workers=workers,
            prefetch_factor=STEPS_AHEAD,
            pin_memory=self.stream.device.type == "cuda",
            generator=torch.Generator(),  # torch's global one, which a model may draw from, must not depend on the loader
            worker_init_fn=outlive_signals,
        )
        segments = from_workers(loader)
        while True:
            yield list(islice(segments, workers))


class Segments(IterableDataset):
    """The segments of a share without end; each worker reads its part of the lanes, and a loader takes from them in turn."""

    def __init__(self, share: StreamShare):
        self.share, self.states = share, dict(share.states)

    def __iter__(self) -> Iterator[Segment]:
        fsspec.asyn.reset_lock()  # one that was held when this process was forked would be waited for for ever
        share, worker = self.share, get_worker_info()
        each = len(share.own) // worker.num_workers
        own = share.own[worker.id * each : (worker.id + 1) * each]
        lanes = [share.stream.lane(lane, share.lanes, self.states.get(lane)) for lane in own]
        while True:
            yield share.stream.segment(lanes, share.rows)


def processors() -> int:
    """How many this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _fetched(value: Any, place: str) -> dict | None:
    """A row's picture as its bytes, or the path of a file on this machine; `HfgenError` for one that cannot be fetched."""
    if isinstance(value, bytes):
        return {"bytes": value}
    path = (value or {}).get("path")
    if not path or value.get("bytes") is not None or "://" not in path:
        return value
    try:
        with xopen(path, "rb") as file:
            return {"bytes": file.read()}
    except Exception as error:  # each kind of storage has its own
        raise HfgenError(
            f"row {place}: {path} cannot be read ({one_line(error, 120)}): see to the network or the file"
        ) from error
