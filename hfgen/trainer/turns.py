"""The optimizers of a task, each with its schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.scheduler import AcceleratedScheduler
from accelerate.utils import DistributedDataParallelKwargs
from diffusers.optimization import get_scheduler

from hfgen.configs.training import OptimizationConfig
from hfgen.core.errors import HfgenError, one_line
from hfgen.families.base import Task
from hfgen.trainer.muon import Muon


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
    prepared: list[Any] = []
    for name in task.optimizers:
        optimizer = _optimizer(list(task.parameters(module, name)), optimization, accelerator)
        prepared += [optimizer, _schedule(optimizer, optimization, max_steps)]
    if len(task.optimizers) > 1:  # the loss of one need not reach the parameters of the others
        accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=True)
    model, *prepared = _prepared(accelerator, module, prepared)
    turns = zip(task.optimizers, prepared[::2], prepared[1::2], strict=True)
    return model, tuple(
        Turn(
            name=name,
            parameters=[p for group in wrapper.optimizer.param_groups for p in group["params"]],
            optimizer=wrapper.optimizer,
            # without a gradient scaler Accelerate's wrapper adds nothing but a good part of a small model's step
            stepper=wrapper if accelerator.scaler is not None else wrapper.optimizer,
            schedule=schedule,
        )
        for name, wrapper, schedule in turns
    )


def _prepared(accelerator: Accelerator, module: torch.nn.Module, others: list[Any]) -> Sequence[Any]:
    """What the accelerator makes of them; `HfgenError` for a way to shard that this network does not have."""
    if not accelerator.is_fsdp2:
        return accelerator.prepare(module, *others)
    if any(isinstance(other, Muon) for other in others):
        raise HfgenError("optimizer=muon: --use_fsdp of accelerate launch parts the matrices it needs: use adamw")
    if len(others) > 2:
        raise HfgenError("--use_fsdp of accelerate launch is for kinds with one optimizer: leave it out")
    try:
        return accelerator.prepare(module, *others)
    except (ValueError, KeyError) as error:
        raise HfgenError(
            f"this network cannot be sharded so ({one_line(error, 200)}): change --fsdp_auto_wrap_policy"
        ) from error


def _optimizer(
    parameters: Sequence[torch.nn.Parameter], optimization: OptimizationConfig, accelerator: Accelerator
) -> torch.optim.Optimizer:
    kind: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW
    if optimization.optimizer == "muon":
        kind = partial(Muon, products=torch.bfloat16 if accelerator.mixed_precision == "bf16" else None)
    return kind(
        parameters,
        lr=optimization.learning_rate,
        betas=(optimization.adam_beta1, optimization.adam_beta2),
        weight_decay=optimization.adam_weight_decay,
        eps=optimization.adam_epsilon,
        fused=accelerator.device.type in ("cpu", "cuda"),
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
