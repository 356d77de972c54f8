"""Batches of uint8 images on the device: from memory when they fit, else decoded by a DataLoader."""

from __future__ import annotations

import math
import os
import signal
import threading
import traceback
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from tqdm.auto import tqdm

from hfgen.core.errors import DEAD_WORKER, HfgenError, dead_worker, explain
from hfgen.core.memory import free_memory, local_processes

MEMORY_SHARE = 0.3
READ_AT_ONCE = 1024
SECONDS_AFTER_SIGTERM = 30


class Rows(Protocol):
    """Data of one shape, by row number."""

    def __len__(self) -> int:
        """How many rows there are."""

    def batches(self, rows: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """For each int64 tensor of row numbers, these rows, (len(rows), ...), on the device."""


class Reader(Protocol):
    """Row -> uint8 array of `shape`, such as `hfgen.data.decode.ImageReader`."""

    @property
    def dataset(self) -> Dataset:
        """The rows."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of an image, (F, C, H, W) of a clip."""

    def __call__(self, row: int) -> np.ndarray:
        """The array of a row."""

    def rows(self, rows: range) -> Iterator[tuple[int, Any]]:
        """Row numbers and what is decoded there, read in one piece."""

    def decode(self, row: int, value: Any) -> np.ndarray:
        """The array of a row from what `rows` gave; `HfgenError` for one that cannot be read."""


@dataclass(frozen=True)
class ImagesInMemory:
    """All images as one uint8 tensor (N, C, H, W) on the device; of clips (N, F, C, H, W)."""

    images: torch.Tensor

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, rows: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """For each int64 tensor of row numbers, the uint8 images (len(rows), C, H, W) on the device."""
        for batch in rows:
            yield self.images.index_select(0, batch.to(self.images.device))


@dataclass(frozen=True)
class ImagesStreamed(TorchDataset):
    """Images decoded as they are asked for, by worker processes that run ahead of the training."""

    reader: Reader
    device: torch.device
    num_workers: int

    def __len__(self) -> int:
        return len(self.reader.dataset)

    def __getitem__(self, row: int) -> torch.Tensor:
        return torch.from_numpy(self.reader(row).copy())

    def batches(self, rows: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """As `ImagesInMemory.batches`."""
        loader = DataLoader(
            self,
            batch_sampler=[batch.tolist() for batch in rows],
            num_workers=self.num_workers,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # torch's global one, which a model may draw from, must not depend on the loader
            worker_init_fn=outlive_signals,
        )
        for batch in from_workers(loader):
            yield batch.to(self.device, non_blocking=True)


def from_workers(loader: DataLoader) -> Iterator[Any]:
    """What the worker processes of a loader send; `HfgenError` for what they meet, and for one that has died."""
    try:
        yield from loader
    except HfgenError as error:  # a worker's error arrives with its whole traceback as text
        end_workers(error)
        raise HfgenError(str(error).strip().rpartition("HfgenError: ")[2]) from None
    except (EOFError, ConnectionError, FileNotFoundError) as error:  # what it was sending has ended with it
        end_workers(error)
        raise HfgenError(dead_worker("has ended")) from error
    except RuntimeError as error:
        if DEAD_WORKER.search(str(error)) is None:
            raise
        end_workers(error)
        raise HfgenError(explain(error)) from error


def end_workers(error: Exception) -> None:
    """Free the loader that an error came from, which ends its workers at once.

    One more that dies meanwhile is no news: torch's handler of SIGCHLD would raise where nothing can catch it, in `__del__`.
    """
    told_of_children = hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if told_of_children else None
    traceback.clear_frames(error.__traceback__)
    if handler is not None:
        signal.signal(signal.SIGCHLD, handler)


def outlive_signals(worker: int) -> None:
    """Leave what a launcher or a cluster sends to all processes to the trainer, which needs its workers to the end of the step.

    SIGTERM is also how the interpreter ends workers that are left over: it may not be ignored for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(SECONDS_AFTER_SIGTERM))


def load_images(reader: Reader, device: torch.device, *, show_progress: bool) -> ImagesInMemory | ImagesStreamed:
    """The images of a reader, decoded once into memory if they take at most 30 % of what is free on the device.

    The processes of one machine share its memory, while each has a GPU of its own.
    """
    size = len(reader.dataset) * math.prod(reader.shape)
    share = MEMORY_SHARE if device.type == "cuda" else MEMORY_SHARE / local_processes()
    if size > share * free_memory(device):
        return ImagesStreamed(reader, device, num_workers=min(4, os.cpu_count() or 1))
    return ImagesInMemory(decode_all(reader, show_progress=show_progress).to(device))


def decode_all(reader: Reader, *, show_progress: bool) -> torch.Tensor:
    """Every row of the reader, uint8 (N, *shape), decoded by threads (Pillow's decoders release the GIL)."""
    count = len(reader.dataset)
    images = torch.empty(count, *reader.shape, dtype=torch.uint8)
    into = images.numpy()

    def decode(item: tuple[int, Any]) -> None:
        into[item[0]] = reader.decode(*item)

    bar = tqdm(total=count, desc="decoding", disable=not show_progress)
    with bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, count, READ_AT_ONCE):
            rows = range(start, min(start + READ_AT_ONCE, count))
            for _ in pool.map(decode, reader.rows(rows), chunksize=64):
                pass
            bar.update(len(rows))
    return images
