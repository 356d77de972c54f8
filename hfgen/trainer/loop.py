"""The training loop, the same for every model: they differ in the objective and in what they draw and save."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler

from hfgen.data.images import to_model_range
from hfgen.data.order import RowNoise, Stream, epoch_order
from hfgen.errors import HfgenError
from hfgen.trainer.checkpoints import (
    check_same_run,
    checkpoints,
    find_checkpoint,
    read_ema,
    read_state,
    save_checkpoint,
)
from hfgen.trainer.config import OptimizationArguments, RunArguments
from hfgen.trainer.ema import WeightAverage
from hfgen.trainer.progress import Progress
from hfgen.trainer.task import Batch, Task, Terms

MicroBatches = Iterator[tuple[torch.Tensor, torch.Tensor]]


@dataclass
class Trainer:
    """Trains `model` on `train` images and keeps everything else in step with it.

    The steps' images, noise and learning rate depend on the seed and on the whole batch of an optimizer step
    (train_batch_size x processes x gradient_accumulation_steps) alone, not on how that batch is shared out.

    Raises `HfgenError` for fewer images than one batch, and for a checkpoint to resume from that is not complete or
    is of another configuration.
    """

    accelerator: Accelerator
    task: Task
    model: torch.nn.Module
    train: object
    validation: object
    random_flip: bool
    optimization: OptimizationArguments
    run: RunArguments
    identity: dict
    train_labels: torch.Tensor | None = None
    validation_labels: torch.Tensor | None = None
    step: int = field(default=0, init=False)
    seconds_before: float = field(default=0.0, init=False)

    def __post_init__(self):
        o, accelerator = self.optimization, self.accelerator
        self.output_dir = Path(self.run.output_dir)
        self.batch_size = o.train_batch_size * accelerator.num_processes * o.gradient_accumulation_steps
        self.steps_per_epoch = len(self.train) // self.batch_size
        if self.steps_per_epoch == 0:
            raise HfgenError(
                f"a batch of {self.batch_size} (train_batch_size x processes x gradient_accumulation_steps) is more than "
                f"the {len(self.train)} training images: lower --train_batch_size"
            )
        self.max_steps = o.max_train_steps or o.num_epochs * self.steps_per_epoch
        self.identity = {**self.identity, "batch_size": self.batch_size}
        if not o.lr_scheduler.startswith("constant"):
            self.identity["max_steps"] = self.max_steps
        self.checkpoint = find_checkpoint(self.output_dir, self.run.resume_from_checkpoint)
        if self.checkpoint is not None:
            check_same_run(self.checkpoint, read_state(self.checkpoint)["identity"], self.identity)
        self.module = self.model.to(accelerator.device, memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(
            [p for p in self.module.parameters() if p.requires_grad],
            lr=o.learning_rate,
            betas=(o.adam_beta1, o.adam_beta2),
            weight_decay=o.adam_weight_decay,
            eps=o.adam_epsilon,
            fused=accelerator.device.type in ("cpu", "cuda"),
        )
        schedule = get_scheduler(
            o.lr_scheduler, optimizer, num_warmup_steps=o.lr_warmup_steps, num_training_steps=self.max_steps
        )
        self.model, self.optimizer, self.lr_scheduler = accelerator.prepare(self.module, optimizer, schedule)
        # without a gradient scaler Accelerate's wrapper adds nothing but a good part of a small model's step
        self.stepper = self.optimizer if accelerator.scaler is not None else self.optimizer.optimizer
        self.forward = torch.compile(self.model) if o.compile else self.model
        self.ema = WeightAverage(self.module, o.ema_max_decay, o.ema_inv_gamma, o.ema_power) if o.use_ema else None
        device = accelerator.device
        shape, uniforms = self.task.noise_shape, self.task.uniforms
        self.noise = RowNoise(
            o.seed, Stream.TRAINING_NOISE, shape, uniforms + 1, device
        )  # the last one is for the flip
        self.validation_noise = RowNoise(o.seed, Stream.VALIDATION_NOISE, shape, uniforms, device)
        self.places = torch.arange(self.batch_size, device=device)
        self.train_labels, self.validation_labels = (
            labels if labels is None else labels.to(device) for labels in (self.train_labels, self.validation_labels)
        )
        for state in self.task.states:
            accelerator.register_for_checkpointing(state)
        self.window = self._zero_terms()
        self.first_bad_step = torch.full((), math.inf, device=device)

    def fit(self):
        """Train to the last step, from a checkpoint if the run asks for one; afterwards the pipeline is on disk.

        Raises `HfgenError` for a loss that is not finite and a disk that cannot be written; what was complete before
        stays complete.
        """
        self._resume()
        self.started = time.perf_counter()
        with Progress(self.accelerator, self.output_dir, self.step, self.max_steps, self.batch_size) as self.progress:
            while self.step < self.max_steps:
                self._run_epoch(*divmod(self.step, self.steps_per_epoch))
        if self.accelerator.is_main_process:
            with self._averaged():
                self.task.save_pipeline(self.module, self.output_dir)
        self.accelerator.wait_for_everyone()

    @property
    def seconds(self) -> float:
        """Time spent in `fit`, with that of the runs that led to the checkpoint it went on from."""
        return self.seconds_before + time.perf_counter() - self.started

    def _run_epoch(self, epoch: int, first_step: int):
        last_step = min(self.steps_per_epoch, first_step + self.max_steps - self.step)
        images = self.micro_batches(epoch, first_step, last_step)
        self.model.train()
        for _ in range(first_step, last_step):
            self.advance(images)
            if self.step % self.run.checkpointing_steps == 0 or self.step == self.max_steps:
                with self.progress.paused():
                    self._save_checkpoint()
        if last_step == self.steps_per_epoch or self.step == self.max_steps:
            with self.progress.paused():
                self._end_epoch(epoch + 1)

    def micro_batches(self, epoch: int, first_step: int, last_step: int) -> MicroBatches:
        """Row numbers and uint8 images of each micro-batch of this process, in the order in which it takes them."""
        rows = self.rows(epoch, first_step, last_step)
        return zip(rows, self.train.batches(rows), strict=True)

    def rows(self, epoch: int, first_step: int, last_step: int) -> list[torch.Tensor]:
        """Row numbers of each micro-batch of this process."""
        order = epoch_order(self.optimization.seed, epoch, len(self.train))
        size = self.optimization.train_batch_size
        return [
            order[step * self.batch_size + offset :][:size]
            for step in range(first_step, last_step)
            for offset in self._offsets()
        ]

    def _offsets(self) -> range:
        """Where this process's micro-batches start within the batch of an optimizer step."""
        share = self.batch_size // self.accelerator.num_processes
        start = share * self.accelerator.process_index
        return range(start, start + share, self.optimization.train_batch_size)

    def advance(self, images: MicroBatches):
        """One optimizer step on the next of `micro_batches`, with its moving average and readings."""
        self._optimizer_step(images)
        self._report()

    def _optimizer_step(self, images):
        for offset in self._offsets():
            batch = self._draw(*next(images), offset)
            with self.accelerator.accumulate(self.model):
                terms = {name: term.mean() for name, term in self.task.loss(self.forward, batch).items()}
                self.accelerator.backward(terms["loss"])
                if self.accelerator.sync_gradients:
                    if self.optimization.max_grad_norm:
                        self.accelerator.clip_grad_norm_(self.module.parameters(), self.optimization.max_grad_norm)
                    self.stepper.step()
                    self.stepper.zero_grad()
            self._note({name: term.detach() for name, term in terms.items()})
        self.learning_rate = self.lr_scheduler.get_last_lr()[0]
        self.lr_scheduler.step()
        if self.ema is not None:
            self.ema.update()
        self.task.end_step()
        self.step += 1

    def _draw(self, rows: torch.Tensor, images: torch.Tensor, offset: int) -> Batch:
        noise, uniform = self.noise.draw(self.step, offset, len(images))
        stratified = (self.places[offset : offset + len(images)] + uniform[:, 0]) / self.batch_size
        x_0 = to_model_range(images).contiguous(memory_format=torch.channels_last)
        if self.random_flip:
            x_0 = torch.where(uniform[:, -1, None, None, None] < 0.5, x_0, x_0.flip(3))
        return Batch(x_0, noise, uniform[:, :-1], rows, self.step, stratified, _rows_of(self.train_labels, rows))

    def _note(self, terms: Terms):
        """Keep the terms and the first step at which it was not finite on the device: nothing here waits for it."""
        for name, term in terms.items():
            self.window[name] += term
        bad = torch.where(terms["loss"].isfinite(), math.inf, float(self.step + 1))
        self.first_bad_step = torch.minimum(self.first_bad_step, bad)

    def _report(self):
        if self.step % self.run.logging_steps and self.step != self.max_steps:
            self.progress.tick()
            return
        self._check_finite()
        micro_batches = (self.step - self.progress.last_reading) * self.optimization.gradient_accumulation_steps
        terms = self._reduced(self.window, self.accelerator.num_processes * micro_batches)
        self.window = self._zero_terms()
        self.progress.tick()
        self.progress.reading(self.step, terms, self.learning_rate)

    def _check_finite(self):
        first_bad = self.accelerator.gather(self.first_bad_step).min().item()
        if math.isfinite(first_bad):
            self._stop_not_finite(f"the loss at step {int(first_bad)} is")

    def _check_weights_finite(self):
        if not torch.stack([p.isfinite().all() for p in self.module.parameters()]).all():
            self._stop_not_finite(f"the weights after step {self.step} are")

    def _stop_not_finite(self, what: str):
        complete = checkpoints(self.output_dir)
        kept = f"{complete[-1].name} is kept" if complete else "there is no checkpoint yet"
        raise HfgenError(
            f"{what} not finite; {kept} in {self.output_dir}: start anew with a learning rate below "
            f"{self.optimization.learning_rate:g}, a longer --lr_warmup_steps or without --mixed_precision"
        )

    def _end_epoch(self, epoch: int):
        self._check_finite()
        last = self.step == self.max_steps
        with self._averaged():
            self.progress.validation(self.step, epoch, self._held_out_terms())
            if self.accelerator.is_main_process:
                if self.run.save_images_epochs and (last or epoch % self.run.save_images_epochs == 0):
                    self.task.save_samples(self.module, self.output_dir / "samples" / f"step-{self.step:07d}.png")
                if not last and epoch % self.run.save_model_epochs == 0:
                    self.task.save_pipeline(self.module, self.output_dir)
        self.accelerator.wait_for_everyone()

    @torch.no_grad()
    def _held_out_terms(self) -> dict[str, float]:
        """Means over the held-out images, with the same noise at each call."""
        size = self.optimization.eval_batch_size
        rows = torch.arange(len(self.validation)).split(size)[
            self.accelerator.process_index :: self.accelerator.num_processes
        ]
        total = self._zero_terms()
        self.module.eval()
        for batch, images in zip(rows, self.validation.batches(rows), strict=True):
            noise, uniform = self.validation_noise.draw(0, int(batch[0]), len(batch))
            x_0 = to_model_range(images).contiguous(memory_format=torch.channels_last)
            stratified = (batch.to(noise) + 0.5) / len(self.validation)
            labels = _rows_of(self.validation_labels, batch)
            terms = self.task.held_out_loss(
                self.module, Batch(x_0, noise, uniform, batch, self.step, stratified, labels)
            )
            for name, term in terms.items():
                total[name] += term.sum()
        self.module.train()
        return self._reduced(total, len(self.validation))

    def _zero_terms(self) -> Terms:
        return {name: torch.zeros((), device=self.accelerator.device) for name in self.task.terms}

    def _reduced(self, terms: Terms, count: int) -> dict[str, float]:
        """The terms summed over the processes, divided by `count`, on the host."""
        sums = self.accelerator.reduce(torch.stack(list(terms.values())))
        return dict(zip(terms, (sums / count).tolist(), strict=True))

    @contextmanager
    def _averaged(self):
        self.module.eval()
        with self.ema.swapped_in() if self.ema is not None else nullcontext():
            yield
        self.module.train()

    def _save_checkpoint(self):
        self._check_finite()
        self._check_weights_finite()
        state = {"step": self.step, "identity": self.identity, "seconds": self.seconds}
        save_checkpoint(
            self.accelerator,
            self.output_dir,
            state,
            self.ema.tensors() if self.ema is not None else {},
            self.run.checkpoints_total_limit,
        )

    def _resume(self):
        if self.checkpoint is None:
            return
        try:
            self.accelerator.load_state(str(self.checkpoint))
            state = read_state(self.checkpoint)
            self.step, self.seconds_before = state["step"], state.get("seconds", 0.0)
            if self.ema is not None:
                self.ema.load(read_ema(self.checkpoint), self.step)
        except Exception as error:  # torch, safetensors and pickle each have their own for a damaged file
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise HfgenError(
                f"checkpoint {self.checkpoint} is damaged ({reason}): remove it and resume from the one before"
            ) from error
        self.accelerator.print(f"resuming after step {self.step} from {self.checkpoint}")


def _rows_of(labels: torch.Tensor | None, rows: torch.Tensor) -> torch.Tensor | None:
    return None if labels is None else labels[rows.to(labels.device, non_blocking=True)]
