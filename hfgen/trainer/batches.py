"""Which rows a process works on in a step, and the batches that it makes of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat

import torch

from hfgen.core.memory import check_fits
from hfgen.core.random import RowRandom, Stream, epoch_order
from hfgen.data.batch import Batch, RandomSpec
from hfgen.data.loading import Rows
from hfgen.data.streaming import ImageStream, MicroBatch, StreamShare
from hfgen.data.training_set import TrainingSet

FLOAT_BYTES = 4
GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
MicroBatches = Iterator[MicroBatch]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the batches of optimizer steps are shared out.

    Attributes:
        seed: of the order of the rows.
        count: training rows.
        micro_batch_size: rows that a process takes at once.
        micro_batches: that a process takes one after the other in a step.
        num_processes, process_index: how many processes there are, and which this is.
        epoch_steps: steps that count as an epoch, of a stream, whose rows nobody has counted.
    """

    seed: int
    count: int
    micro_batch_size: int
    micro_batches: int
    num_processes: int
    process_index: int
    epoch_steps: int | None = None

    @property
    def batch_size(self) -> int:
        """Rows of an optimizer step, over all processes."""
        return self.micro_batch_size * self.num_processes * self.micro_batches

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches that the rows give."""
        return self.count // self.batch_size if self.epoch_steps is None else self.epoch_steps

    @property
    def offsets(self) -> range:
        """Where this process's micro-batches start within the batch of an optimizer step."""
        share = self.micro_batch_size * self.micro_batches
        start = share * self.process_index
        return range(start, start + share, self.micro_batch_size)

    def rows(self, epoch: int, first_step: int, last_step: int) -> list[torch.Tensor]:
        """Row numbers, int64, of each micro-batch of this process, in the order in which it takes them."""
        order = epoch_order(self.seed, epoch, self.count)
        return [
            order[step * self.batch_size + offset :][: self.micro_batch_size]
            for step in range(first_step, last_step)
            for offset in self.offsets
        ]


def in_memory(images: Rows, rows: Sequence[torch.Tensor]) -> MicroBatches:
    """Micro-batches of rows whose classes lie with the others'."""
    return zip(rows, images.batches(rows), repeat(None), strict=False)


def streamed(stream: ImageStream | None, plan: Plan) -> StreamShare | None:
    """What this process takes of a stream; `HfgenError` for fewer shards than processes."""
    if stream is None:
        return None
    rows = plan.micro_batch_size * plan.micro_batches
    return stream.share(rows=rows, num_processes=plan.num_processes, process_index=plan.process_index)


class Batches:
    """Batches with the random numbers and conditions that belong to their rows.

    Args:
        images: where the rows come from.
        random: what the task needs for each row.
        plan: of the training rows.
        eval_batch_size: held-out rows at once.

    Raises `HfgenError` where there is no memory for a row's numbers.
    """

    def __init__(
        self, images: TrainingSet, random: RandomSpec, plan: Plan, *, eval_batch_size: int, device: torch.device
    ):
        self.representation, self.batch_size = images.representation, plan.batch_size
        self.held_out_rows, self.in_lanes = len(images.validation), images.stream is not None

        def numbers(stream: Stream, spec: RandomSpec, rows: int) -> RowRandom:
            size = rows * sum(math.prod(shape) for shape in (*spec.normal.values(), *spec.uniform.values()))
            what = f"the random numbers of a batch of {rows} rows"
            check_fits(FLOAT_BYTES * size, what, "lower the batch size, or what is drawn for a row", device)
            return RowRandom(
                seed=plan.seed, stream=stream, normal=spec.normal, uniform=spec.uniform, rows=rows, device=device
            )

        every = random | images.representation.drawn
        training = random | images.representation.random | images.representation.drawn
        self.random = numbers(Stream.TRAINING_NOISE, training, plan.micro_batch_size)
        self.held_out_random = numbers(Stream.VALIDATION_NOISE, every, eval_batch_size)
        self.places = torch.arange(plan.batch_size, device=device)
        self.labels, self.held_out_labels = (
            labels if labels is None else labels.to(device) for labels in (images.train_labels, images.labels)
        )

    def training(
        self, rows: torch.Tensor, raw: torch.Tensor, labels: torch.Tensor | None = None, *, step: int, offset: int
    ) -> Batch:
        """Rows of a step's whole batch from `offset` on, augmented; their numbers hold until the next batch is made.

        `labels` are their classes, where those do not lie with the others'.
        """
        random = self.random.draw(step, offset, len(raw))
        if self.random.uniform:
            first = random[next(iter(self.random.uniform))].view(len(raw), -1)[:, 0]
            random["stratified"] = (self._places(step)[offset : offset + len(raw)] + first) / self.batch_size
        data = self.representation.augment(self.representation.prepare(raw, random), random)
        cond = _cond(self.labels, rows) if labels is None else {"class_labels": labels}
        return Batch(data=data, cond=cond, random=random, rows=rows, step=step)

    def _places(self, step: int) -> torch.Tensor:
        """Of a step's rows among the strata: those of a lane, which may hold few classes, must not keep to the same ones."""
        return self.places.roll(int(step * GOLDEN_RATIO % 1 * self.batch_size)) if self.in_lanes else self.places

    def held_out(self, rows: torch.Tensor, raw: torch.Tensor, *, step: int) -> Batch:
        """Consecutive held-out rows, whose numbers are the same at each step."""
        random = self.held_out_random.draw(0, int(rows[0]), len(rows))
        random["stratified"] = (rows.to(self.places.device, torch.float32) + 0.5) / self.held_out_rows
        cond = _cond(self.held_out_labels, rows)
        data = self.representation.prepare(raw, random)
        return Batch(data=data, cond=cond, random=random, rows=rows, step=step)


def _cond(labels: torch.Tensor | None, rows: torch.Tensor) -> Mapping[str, torch.Tensor]:
    return {} if labels is None else {"class_labels": labels[rows.to(labels.device, non_blocking=True)]}
