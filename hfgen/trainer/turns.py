"""The optimizers of a task, each with its schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.scheduler import AcceleratedScheduler
from accelerate.utils import DistributedDataParallelKwargs
from diffusers.optimization import get_scheduler

from hfgen.configs.training import OptimizationConfig
from hfgen.families.base import Task


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What an optimizer does in a step.

    Attributes:
        name: in the task's `optimizers`.
        parameters: that it trains.
        optimizer: of the parameters.
        stepper: what to call for a step: the optimizer itself, or Accelerate's for it where gradients are scaled.
    """

    name: str
    parameters: Sequence[torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    stepper: torch.optim.Optimizer | AcceleratedOptimizer
    schedule: AcceleratedScheduler


def prepare_turns(
    accelerator: Accelerator, task: Task, module: torch.nn.Module, optimization: OptimizationConfig, max_steps: int
) -> tuple[torch.nn.Module, tuple[Turn, ...]]:
    """The module as the accelerator wraps it, and the turns in their order."""
    parameters = [list(task.parameters(module, name)) for name in task.optimizers]
    prepared = []
    for part in parameters:
        optimizer = _optimizer(part, optimization, accelerator.device)
        prepared += [optimizer, _schedule(optimizer, optimization, max_steps)]
    if len(task.optimizers) > 1:  # the loss of one need not reach the parameters of the others
        accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=True)
    model, *prepared = accelerator.prepare(module, *prepared)
    wrapped, schedules = prepared[::2], prepared[1::2]
    turns = zip(task.optimizers, parameters, wrapped, schedules, strict=True)
    return model, tuple(
        Turn(
            name=name,
            parameters=part,
            optimizer=wrapper.optimizer,
            # without a gradient scaler Accelerate's wrapper adds nothing but a good part of a small model's step
            stepper=wrapper if accelerator.scaler is not None else wrapper.optimizer,
            schedule=schedule,
        )
        for name, part, wrapper, schedule in turns
    )


def _optimizer(
    parameters: Sequence[torch.nn.Parameter], optimization: OptimizationConfig, device: torch.device
) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        parameters,
        lr=optimization.learning_rate,
        betas=(optimization.adam_beta1, optimization.adam_beta2),
        weight_decay=optimization.adam_weight_decay,
        eps=optimization.adam_epsilon,
        fused=device.type in ("cpu", "cuda"),
    )


def _schedule(
    optimizer: torch.optim.Optimizer, optimization: OptimizationConfig, max_steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    return get_scheduler(
        optimization.lr_scheduler,
        optimizer,
        num_warmup_steps=optimization.lr_warmup_steps,
        num_training_steps=max_steps,
    )
