"""An optimizer step, all of it on the device: losses, gradients, updates, the moving average, and sums of what is to be told."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator

from hfgen.data.batch import Batch
from hfgen.families.base import Task, Terms
from hfgen.trainer.ema import WeightAverage
from hfgen.trainer.turns import Turn

MakeBatches = Callable[[], Iterable[Batch]]


@dataclass(kw_only=True)
class Step:
    """Call it with what makes the micro-batches of a step; nothing in it waits for the device.

    Attributes:
        model: as the accelerator wraps it.
        forward: what the task calls: the model, or what a compiler has made of it.
        max_grad_norm: 0: gradients are left as they are.
        sums: of the means of each micro-batch's terms, since somebody has set them to zero.
        taken: steps so far, a tensor ().
        first_bad: the first step at which the loss was not finite, else infinity, a tensor ().
    """

    accelerator: Accelerator
    task: Task
    model: torch.nn.Module
    forward: Callable
    turns: Sequence[Turn]
    ema: WeightAverage | None
    max_grad_norm: float
    sums: Terms = field(init=False)
    taken: torch.Tensor = field(init=False)
    first_bad: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        device = self.accelerator.device
        self.sums = {name: torch.zeros((), device=device) for name in self.task.terms}
        self.taken, self.first_bad = torch.zeros((), device=device), torch.full((), math.inf, device=device)

    def __call__(self, batches: MakeBatches) -> None:
        """Take a step on the micro-batches, which each optimizer gets anew in its turn."""
        for turn in self.turns:
            for batch in batches():
                self._learn(turn, batch)
        if self.ema is not None:
            self.ema.update()
        self.task.end_step()
        self.taken += 1

    def resume(self, sums: Terms, taken: int) -> None:
        """Go on after so many steps with these sums."""
        self.taken.fill_(taken)
        for name, value in self.sums.items():
            value.copy_(sums[name])

    def _learn(self, turn: Turn, batch: Batch) -> None:
        """Gradients of a micro-batch; after the last one of the step the optimizer's update."""
        with self.accelerator.accumulate(self.model):
            terms = {name: term.mean() for name, term in self.task.loss(self.forward, batch, turn.name).items()}
            self.accelerator.backward(terms["loss"])
            if self.accelerator.sync_gradients:
                if self.max_grad_norm:
                    self.accelerator.clip_grad_norm_(turn.parameters, self.max_grad_norm)
                turn.stepper.step()
                for each in self.turns:  # what this loss has left at the parameters of others is not theirs
                    each.stepper.zero_grad()
        self._note({name: term.detach() for name, term in terms.items()})

    def _note(self, terms: Terms) -> None:
        for name, term in terms.items():
            self.sums[name] += term
        bad = torch.where(terms["loss"].isfinite(), math.inf, self.taken + 1)
        self.first_bad.copy_(torch.minimum(self.first_bad, bad))
