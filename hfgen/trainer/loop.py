"""The training loop, the same for every family: they differ in their tasks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator

from hfgen.configs.training import TrainingConfig
from hfgen.core.errors import HfgenError, one_line
from hfgen.core.media import grid_of_classes, save_png
from hfgen.data.batch import Batch
from hfgen.data.training_set import TrainingSet
from hfgen.families.base import Task, Terms
from hfgen.trainer.batches import Batches, MicroBatches, Plan, in_memory, streamed
from hfgen.trainer.capture import captured
from hfgen.trainer.checkpoints import (
    check_same_run,
    checkpoints,
    find_checkpoint,
    is_longer,
    read_state,
    thin_out,
)
from hfgen.trainer.ema import WeightAverage
from hfgen.trainer.output import OutputFolder
from hfgen.trainer.parts import local_part
from hfgen.trainer.progress import Progress, wait_for_device
from hfgen.trainer.setup import on_main_process
from hfgen.trainer.sharding import layout
from hfgen.trainer.shards import Stored
from hfgen.trainer.signals import Request, Signals, interruption
from hfgen.trainer.state import TrainingState
from hfgen.trainer.step import Step
from hfgen.trainer.turns import prepare_turns

STREAM = "stream"
Result = TypeVar("Result")


@dataclass(kw_only=True)
class Trainer:
    """Trains `module` on `images` by `task` and keeps everything else in step with it.

    The steps' rows, random numbers and learning rate depend on the seed and on the whole batch of an optimizer step
    (train_batch_size x processes x gradient_accumulation_steps) alone, not on how that batch is shared out.

    Attributes:
        identity: what must be the same for a checkpoint to be continued, as JSON values.
        signals: that are heeded after each step.
        ended_at: steps after which this training had come to its end, before it was made longer.
        quality: of the samples of a pipeline, by name; called each `eval_epochs` epochs on the main process.

    Raises `HfgenError` for fewer rows than one batch, and for a checkpoint to resume from that is not whole or
    is of another configuration.
    """

    accelerator: Accelerator
    task: Task
    module: torch.nn.Module
    images: TrainingSet
    config: TrainingConfig
    identity: dict[str, Any]
    signals: Signals = field(default_factory=Signals)
    quality: Callable[[Any], Mapping[str, float]] | None = None
    step: int = field(default=0, init=False)
    seconds_before: float = field(default=0.0, init=False)
    cpu_seconds_before: float | None = field(default=0.0, init=False)
    ended_at: list[int] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.output = OutputFolder(self.config.output_dir)
        self.optimization, self.run, self.output_dir = self.config.optimization, self.config.run, self.config.output_dir
        self.plan = self._plan()
        self.batch_size, self.steps_per_epoch = self.plan.batch_size, self.plan.steps_per_epoch
        self.max_steps = self.optimization.max_train_steps or self.optimization.num_epochs * self.steps_per_epoch
        self.share = streamed(self.images.stream, self.plan)
        self.identity = {**self.identity, "batch_size": self.batch_size}
        if self.share is not None:
            self.identity["lanes"] = self.share.lanes
        if not self.optimization.lr_scheduler.startswith("constant"):
            self.identity["max_steps"] = self.max_steps
        self.checkpoint = on_main_process(self.accelerator, self._find_checkpoint)
        self._prepare()
        device = self.accelerator.device
        self.batches = Batches(
            self.images,
            self.task.random,
            self.plan,
            eval_batch_size=min(self.optimization.eval_batch_size, len(self.images.validation)),
            device=device,
        )
        self.last_reading, self.epoch_ended = 0, True

    def _plan(self) -> Plan:
        plan = Plan(
            seed=self.optimization.seed,
            count=len(self.images.train),
            epoch_steps=self.images.stream and self.images.stream.epoch_steps,
            micro_batch_size=self.optimization.train_batch_size,
            micro_batches=self.optimization.gradient_accumulation_steps,
            num_processes=self.accelerator.num_processes,
            process_index=self.accelerator.process_index,
        )
        if plan.steps_per_epoch == 0:
            raise HfgenError(
                f"a batch of {plan.batch_size} (train_batch_size x processes x gradient_accumulation_steps) is more than "
                f"the {plan.count} training images: lower --train_batch_size"
            )
        return plan

    def _find_checkpoint(self) -> Path | None:
        checkpoint = find_checkpoint(self.output_dir, self.run.resume_from_checkpoint)
        if checkpoint is not None:
            state = read_state(checkpoint)
            longer = {"max_steps": self.max_steps} if is_longer(state, self.identity) else {}
            check_same_run(checkpoint, state.get("identity", {}) | longer, self.identity)
        return checkpoint

    def _prepare(self) -> None:
        o, device = self.optimization, self.accelerator.device
        self.layout = layout(self.accelerator, self.module)
        self.layout.place(self.images.representation.memory_format)
        self.task.to(device)
        self.model, self.turns = prepare_turns(self.accelerator, self.task, self.module, o, self.max_steps)
        self.layout.check()
        self.ema = WeightAverage(self.module, o.ema_max_decay, o.ema_inv_gamma, o.ema_power) if o.use_ema else None
        self.plain_step = Step(
            accelerator=self.accelerator,
            task=self.task,
            model=self.model,
            forward=torch.compile(self.model) if o.compile else self.model,
            turns=self.turns,
            ema=self.ema,
            max_grad_norm=o.max_grad_norm,
        )
        tell = self.accelerator.print
        self.take_step = captured(self.plain_step, self.plan.micro_batches, tell) if o.capture else self.plain_step
        self.state = TrainingState(
            accelerator=self.accelerator,
            module=self.module,
            turns=self.turns,
            ema=self.ema,
            states=self.task.states if self.share is None else {**self.task.states, STREAM: self.share},
        )

    def fit(self) -> None:
        """Train to the last step, from a checkpoint if the run asks for one; afterwards the pipeline is on disk.

        Raises `HfgenError` for a loss that is not finite and a disk that cannot be written, and `Interrupted` when a signal has
        ended it; what was complete before stays complete.
        """
        self._resume()
        on_main_process(self.accelerator, self._cut)
        self.started, self.cpu_started = time.perf_counter(), time.process_time()
        self.progress = Progress(self.accelerator, self.output_dir, self.step, self.max_steps, self.batch_size)
        share = nullcontext() if self.share is None else closing(self.share)
        with self.progress, self.signals.deferred(self.accelerator), share:
            if not self.epoch_ended:
                self._end_epoch()
            while self.step < self.max_steps:
                self._run_epoch(*divmod(self.step, self.steps_per_epoch))
        with self._averaged():
            self._with_whole(self._save_pipeline)

    def _cut(self) -> None:
        """Let the folder be as it was after the checkpoint, however the training ended that wrote it."""
        self.output.cut(self.step)
        thin_out(self.output, self.step, self.run.checkpoints_total_limit)

    @property
    def seconds(self) -> float:
        """Time spent in `fit`, with that of the runs that led to the checkpoint it went on from."""
        return self.seconds_before + time.perf_counter() - self.started

    @property
    def cpu_seconds(self) -> float | None:
        """What the processors spent in that time on all threads of this process; None after a checkpoint that does not tell."""
        if self.cpu_seconds_before is None:
            return None
        return self.cpu_seconds_before + time.process_time() - self.cpu_started

    def _run_epoch(self, epoch: int, first_step: int) -> None:
        last_step = min(self.steps_per_epoch, first_step + self.max_steps - self.step)
        micro_batches = self.micro_batches(epoch, first_step, last_step)
        self.model.train()
        for _ in range(first_step, last_step):
            self.advance(micro_batches)
            request = self.signals.poll()
            if self._pauses(request):
                wait_for_device(self.accelerator.device)  # what it has yet to do is no pause
                with self.progress.paused():
                    self._after_step(request)

    def _pauses(self, request: Request) -> bool:
        """Whether more than training is due after this step."""
        due = (self.steps_per_epoch, self.run.checkpointing_steps, self.max_steps)
        return request is not Request.NOTHING or any(self.step % steps == 0 for steps in due)

    def _after_step(self, request: Request) -> None:
        """What belongs to the end of an epoch comes before the checkpoint, so that a kill cannot come between them.

        A training that is asked to end leaves it to the one that goes on: there may be no time for it.
        """
        last = self.step == self.max_steps
        self.epoch_ended = not (last or self.step % self.steps_per_epoch == 0)
        if not self.epoch_ended and not request.stops:
            self._end_epoch()
        if last or self.step % self.run.checkpointing_steps == 0 or request is not Request.NOTHING:
            self._save_checkpoint()
        if request.stops:
            raise interruption(request, f" after step {self.step}")

    def micro_batches(self, epoch: int, first_step: int, last_step: int) -> MicroBatches:
        """Each micro-batch of this process, in the order in which it takes them."""
        if self.share is not None:
            return self.share.micro_batches(last_step - first_step, self.plan.micro_batch_size)
        return in_memory(self.images.train, self.plan.rows(epoch, first_step, last_step))

    def advance(self, micro_batches: MicroBatches) -> None:
        """One optimizer step on the next of `micro_batches`, with its moving average and readings."""
        taken = list(islice(micro_batches, len(self.plan.offsets)))

        def batches() -> Iterator[Batch]:
            for offset, micro_batch in zip(self.plan.offsets, taken, strict=True):
                yield self.batches.training(*micro_batch, step=self.step, offset=offset)

        self.take_step(batches)
        self.learning_rate = self.turns[0].schedule.get_last_lr()[0]
        for turn in self.turns:
            turn.schedule.step()
        self.step += 1
        self._report()

    def _report(self) -> None:
        if self.step % self.run.logging_steps and self.step != self.max_steps:
            self.progress.tick()
            return
        self._check_finite()
        micro_batches = (self.step - self.last_reading) * self.plan.micro_batches
        terms = self._reduced(self.plain_step.sums, self.accelerator.num_processes * micro_batches)
        for value in self.plain_step.sums.values():
            value.zero_()
        self.last_reading = self.step
        self.progress.tick()
        self.progress.reading(self.step, terms, float(self.learning_rate))

    def _check_finite(self) -> None:
        first_bad = self.accelerator.gather(self.plain_step.first_bad).min().item()
        if math.isfinite(first_bad):
            self._stop_not_finite(f"the loss at step {int(first_bad)} is")

    def _check_weights_finite(self) -> None:
        finite = torch.stack([local_part(p).isfinite().all() for p in self.module.parameters()]).all()
        if not self.accelerator.gather(finite).all():
            self._stop_not_finite(f"the weights after step {self.step} are")

    def _stop_not_finite(self, what: str) -> None:
        complete = checkpoints(self.output_dir)
        kept = f"{complete[-1].name} is kept" if complete else "there is no checkpoint yet"
        raise HfgenError(
            f"{what} not finite; {kept} in {self.output_dir}: start anew with a learning rate below "
            f"{self.optimization.learning_rate:g}, a longer --lr_warmup_steps or without --mixed_precision"
        )

    def _end_epoch(self) -> None:
        self._check_finite()
        epoch, last = -(-self.step // self.steps_per_epoch), self.step == self.max_steps
        with self._averaged():
            terms = self._held_out_terms()
            if not all(map(math.isfinite, terms.values())):
                self._stop_not_finite(f"the held-out loss after step {self.step} is")
            self.progress.validation(self.step, epoch, terms)
            if self.quality is not None and (last or epoch % self.run.eval_epochs == 0):
                self.progress.quality(self.step, self._with_whole(self._measure))
            if self.run.save_images_epochs and (last or epoch % self.run.save_images_epochs == 0):
                self._with_whole(self._save_preview)
            if not last and epoch % self.run.save_model_epochs == 0:
                self._with_whole(self._save_pipeline)
        self.epoch_ended = True

    @torch.no_grad()
    def _held_out_terms(self) -> dict[str, float]:
        """Means over the held-out rows, with the same random numbers at each call."""
        held_out = self.images.validation
        shares = self.layout.shares(torch.arange(len(held_out)).split(self.optimization.eval_batch_size))
        raws = held_out.batches([rows for rows, _ in shares])
        total = self._zero_terms()
        self.module.eval()
        for (rows, counts), raw in zip(shares, raws, strict=True):
            batch = self.batches.held_out(rows, raw, step=self.step)
            for name, term in self.task.held_out_loss(self.module, batch).items():
                total[name] += term.sum() * counts
        self.module.train()
        return self._reduced(total, len(held_out))

    def _with_whole(self, action: Callable[[torch.nn.Module], Result]) -> Result:
        """What an action makes of the whole network on the main process."""
        with self.layout.whole() as network:
            return on_main_process(self.accelerator, partial(action, network))

    def _measure(self, network: torch.nn.Module) -> Mapping[str, float]:
        assert self.quality is not None
        return self.quality(self.task.pipeline(network))

    def _save_preview(self, network: torch.nn.Module) -> None:
        images, names = self.task.preview(network), getattr(self.task, "class_names", ())
        labels = [i % len(names) for i in range(len(images))] if names else None
        save_png(grid_of_classes(images, names, labels), self.output.grid(self.step))

    def _save_pipeline(self, network: torch.nn.Module) -> None:
        self.output.save(partial(self.task.pipeline(network).save_pretrained, safe_serialization=True))

    def _zero_terms(self) -> Terms:
        return {name: torch.zeros((), device=self.accelerator.device) for name in self.task.terms}

    def _reduced(self, terms: Terms, count: int) -> dict[str, float]:
        """The terms summed over the processes, divided by `count`, on the host."""
        sums = self.accelerator.reduce(torch.stack(list(terms.values())))
        return dict(zip(terms, (sums / count).tolist(), strict=True))

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        self.module.eval()
        with self.layout.evaluating(), self.ema.swapped_in() if self.ema is not None else nullcontext():
            yield
        self.module.train()

    def _save_checkpoint(self) -> None:
        self._check_finite()
        self._check_weights_finite()
        values, files = self.state.capture(self.plain_step.sums)
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "last_reading": self.last_reading,
            "epoch_ended": self.epoch_ended,
            "ended_at": self.ended_at,
            "identity": self.identity,
            **values,
        }
        self.layout.save(self.output, state=state, files=files, limit=self.run.checkpoints_total_limit)

    def _resume(self) -> None:
        if self.checkpoint is None:
            if self.run.resume_from_checkpoint is not None:
                self.accelerator.print(f"no checkpoint in {self.output_dir}: starting fresh")
            return
        try:
            state = read_state(self.checkpoint)
            sums = self.state.restore(state, Stored(self.checkpoint))
            self.plain_step.resume(sums, state["step"])
            self.step, self.seconds_before = state["step"], state["seconds"]
            self.cpu_seconds_before = state.get("cpu_seconds")  # None of before it was recorded
            self.last_reading, self.epoch_ended = state["last_reading"], state["epoch_ended"]
            self.ended_at = state.get("ended_at", []) + ([self.step] if is_longer(state, self.identity) else [])
        except Exception as error:  # torch and safetensors each have their own for what is not theirs
            reason = one_line(f"{type(error).__name__}: {error}", 200)
            raise HfgenError(
                f"checkpoint {self.checkpoint} is not of this training ({reason}): remove it and resume from the one before"
            ) from error
        longer = f", which ended there: now {self.max_steps} steps" if self.step in self.ended_at else ""
        self.accelerator.print(f"resuming after step {self.step} from {self.checkpoint}{longer}")
