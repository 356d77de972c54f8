"""The rows of a stream, shuffled, and the place that its reading has come to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import IterableDataset

from hfgen.core.errors import HfgenError, one_line
from hfgen.core.random import Stream

READ_AT_ONCE = 64
DRAWN_AT_ONCE = 1024
EMPTY_PASSES = 100
ROW_BITS = 32


@dataclass(frozen=True, kw_only=True)
class Shards:
    """Undecoded rows of a stream by shard.

    Attributes:
        rows: one after the other, as `datasets` gives them.
        count: of the shards.
        names: of the shards, where they are known.
        held_out: how many rows at the beginning of a shard are not trained on.
        ended: shards of which all rows are held out.
    """

    rows: IterableDataset
    count: int
    names: tuple[str, ...] = ()
    held_out: Mapping[int, int] = field(default_factory=dict)
    ended: frozenset[int] = frozenset()

    @property
    def usable(self) -> list[int]:
        """Those with rows to train on."""
        return [shard for shard in range(self.count) if shard not in self.ended]

    def read(self, shard: int, first: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        """Numbers and values of a shard's rows from a row on; `HfgenError` for one that cannot be read."""
        row = 0
        try:
            # not iter(): within a worker of a DataLoader that splits the rows among the workers once more
            for batch in self.rows.shard(self.count, shard, contiguous=True).iter(READ_AT_ONCE):
                for values in zip(*batch.values(), strict=True):
                    if row >= first:
                        yield row, dict(zip(batch, values, strict=True))
                    row += 1
        except HfgenError:
            raise
        except Exception as error:  # network, Arrow and tar each have their own for what cannot be read
            raise HfgenError(
                f"{self.place(shard)} cannot be read after row {row - 1} ({type(error).__name__}: {one_line(error, 160)}): mend it or "
                "see to the network, then go on with --resume_from_checkpoint latest"
            ) from error

    def place(self, shard: int) -> str:
        """A shard in words; one of several of a file is a row group of it."""
        if not self.names:
            return f"shard {shard}"
        name = self.names[shard]
        group = f"row group {self.names[:shard].count(name)} of " if self.names.count(name) > 1 else ""
        return f"{group}shard {name}"


class Entry(NamedTuple):
    """A row that has been read."""

    shard: int
    row: int
    values: dict[str, Any]

    @property
    def number(self) -> int:
        """That no other row of the stream has."""
        return self.shard << ROW_BITS | self.row


class Lane(Iterator[Entry]):
    """Every `lanes`-th shard of each pass, whose rows go through a shuffle buffer; there is no end.

    A pass takes the shards in an order drawn by (seed, pass). Each call gives a row drawn from the full buffer, and the next
    one that is read takes its place. What is given is a function of the arguments alone.

    Attributes:
        taken: rows given so far.
        reading: pass, place in its order and row that are read next.

    Raises `HfgenError` for a stream without rows.
    """

    def __init__(self, shards: Shards, *, lane: int, lanes: int, capacity: int, seed: int):
        self.shards, self.lane, self.lanes, self.capacity, self.seed = shards, lane, lanes, capacity, seed
        self.taken, self.reading = 0, (0, 0, 0)
        self.buffer: list[Entry] = []
        self.places = np.empty((capacity, 2), np.int64)
        self.source = self._read()
        self.draws = np.empty(0, np.int64)

    def __next__(self) -> Entry:
        if not self.buffer:
            self._fill(list(islice(self.source, self.capacity)))
        block, place = divmod(self.taken, DRAWN_AT_ONCE)
        if place == 0 or not len(self.draws):
            generator = np.random.default_rng([self.seed, Stream.SHUFFLE_BUFFER, self.lane, block])
            self.draws = generator.integers(0, self.capacity, DRAWN_AT_ONCE)
        drawn = self.draws[place]
        entry, self.buffer[drawn] = self.buffer[drawn], next(self.source)
        self.places[drawn] = self.buffer[drawn][:2]
        self.taken += 1
        return entry

    def _fill(self, entries: list[Entry]) -> None:
        self.buffer = entries
        self.places[:] = [entry[:2] for entry in entries]

    def state(self) -> torch.Tensor:
        """Int64: taken, the three of reading, then shard and row of each entry of the buffer, once rows have been given."""
        return torch.from_numpy(np.concatenate([(self.taken, *self.reading), self.places.ravel()]))

    def go_on_from(self, state: torch.Tensor) -> None:
        """Fill the buffer with the rows that it held, by reading their shards again; `HfgenError` where they are not there."""
        self.taken, *reading = state[:4].tolist()
        self.reading = tuple(reading)
        self.draws = np.empty(0, np.int64)
        self.source = self._read()
        places = [tuple(place) for place in state[4:].view(-1, 2).tolist()]
        found = self._found(set(places))
        self._fill([found[place] for place in places])

    def _found(self, places: set[tuple[int, int]]) -> dict[tuple[int, int], Entry]:
        found = {}
        for shard in {shard for shard, _ in places}:
            rows = {row for of, row in places if of == shard}
            for row, values in self.shards.read(shard, min(rows)):
                if row in rows:
                    found[shard, row] = Entry(shard, row, values)
                if row == max(rows):
                    break
        missing = sorted(places - found.keys())
        if missing:
            shard, row = missing[0]
            raise HfgenError(
                f"{self.shards.place(shard)} has no row {row} any more: the shards are not those of the training"
            )
        return found

    def _read(self) -> Iterator[Entry]:
        """Rows from `reading` on, which is moved on before a row is given."""
        empty = 0
        while empty < EMPTY_PASSES:
            turn, begin, first = self.reading
            order, empty = self._order(turn), empty + 1
            for place in range(begin, len(order)):
                shard = order[place]
                for row, values in self.shards.read(shard, max(first, self.shards.held_out.get(shard, 0))):
                    empty, self.reading = 0, (turn, place, row + 1)
                    yield Entry(shard, row, values)
                first = 0
            self.reading = (turn + 1, 0, 0)
        raise HfgenError(
            "the stream has no images to train on: name another with --dataset_name, or lower --max_validation_samples"
        )

    def _order(self, turn: int) -> list[int]:
        usable = self.shards.usable
        order = np.random.default_rng([self.seed, Stream.SHARDS, turn]).permutation(len(usable))
        return [usable[i] for i in order[self.lane :: self.lanes]]
