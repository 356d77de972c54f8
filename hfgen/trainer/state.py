"""What a checkpoint holds of a training: tensors by file and JSON values, and nothing that could run code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from hfgen.trainer.ema import WeightAverage
from hfgen.trainer.random_states import random_states, set_random_states
from hfgen.trainer.shards import Stored
from hfgen.trainer.turns import Turn

MODEL, EMA, PROCESSES = "model.safetensors", "ema.safetensors", "processes.safetensors"
SUMS = "sum."
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """All that changes in a training.

    Attributes:
        states: of its task, by name: objects with `state_dict` of tensors and `load_state_dict`.
    """

    accelerator: Accelerator
    module: torch.nn.Module
    turns: Sequence[Turn]
    ema: WeightAverage | None
    states: Mapping[str, Any]

    def capture(self, sums: Tensors) -> tuple[dict[str, Any], dict[str, Tensors]]:
        """JSON values, and tensors by file; call it on every process, each with its own `sums` of the terms since the last reading."""
        own = random_states(self.accelerator.device) | {SUMS + name: value.cpu() for name, value in sums.items()}
        everyones = gather_object([own])
        files = {
            MODEL: self.module.state_dict(),
            PROCESSES: {f"{i}.{name}": value for i, one in enumerate(everyones) for name, value in one.items()},
            **{_optimizer_file(turn): _optimizer_tensors(turn.optimizer) for turn in self.turns},
            **{_task_file(name): state.state_dict() for name, state in self.states.items()},
        }
        if self.ema is not None:
            files[EMA] = self.ema.tensors()
        scaler = self.accelerator.scaler
        values = {
            "processes": len(everyones),
            "micro_batches": self.accelerator.gradient_accumulation_steps,
            "optimizers": {
                turn.name: {
                    "param_groups": _on_host(turn.optimizer.state_dict()["param_groups"]),
                    "schedule": _on_host(turn.schedule.state_dict()),
                }
                for turn in self.turns
            },
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        return values, {name: {k: v.contiguous() for k, v in tensors.items()} for name, tensors in files.items()}

    def restore(self, values: Mapping[str, Any], stored: Stored) -> Tensors:
        """Go on from what `capture` gave, and what has been stored of it. Returns this process's sums.

        With another number of processes all sums are the main process's, and the generators stay as they are. Sums are of means
        over micro-batches: shared out otherwise, a step has other many of them.

        Raises whatever torch does for tensors that are not those of this training.
        """
        stored.fill(MODEL, self.module.state_dict())
        for turn in self.turns:
            saved = values["optimizers"][turn.name]
            _load_optimizer(turn.optimizer, stored, _optimizer_file(turn), saved["param_groups"])
            turn.schedule.load_state_dict(dict(saved["schedule"]))
        if self.ema is not None:
            stored.fill(EMA, self.ema.tensors())
            self.ema.resume(values["step"])
        for name, state in self.states.items():
            state.load_state_dict(stored.read(_task_file(name)))
        if self.accelerator.scaler is not None and values["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(dict(values["scaler"]))
        own = self._restore_own(stored.read(PROCESSES), values["processes"])
        micro_batches = self.accelerator.gradient_accumulation_steps
        before = values["processes"] * values.get("micro_batches", micro_batches)
        now = self.accelerator.num_processes * micro_batches
        return {name: value * (now / before) for name, value in own.items()}

    def _restore_own(self, saved: Tensors, processes: int) -> Tensors:
        accelerator = self.accelerator
        everyones = [_below(saved, f"{i}.") for i in range(processes)]
        sums = [_below(one, SUMS) for one in everyones]
        if processes == accelerator.num_processes:
            set_random_states(everyones[accelerator.process_index], accelerator.device)
            own = sums[accelerator.process_index]
        else:
            weight = float(accelerator.is_main_process)
            own = {name: weight * sum(one[name] for one in sums) for name in sums[0]}
        return {name: value.to(accelerator.device) for name, value in own.items()}


def _below(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _optimizer_file(turn: Turn) -> str:
    return f"optimizer-{turn.name}.safetensors"


def _task_file(name: str) -> str:
    return f"state-{name}.safetensors"


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """By the parameter's number and the name, such as "3.exp_avg"."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": torch.as_tensor(value) for index, of in state.items() for name, value in of.items()}


def _load_optimizer(optimizer: torch.optim.Optimizer, stored: Stored, file: str, groups: list[dict[str, Any]]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    tensors = stored.into(file, lambda key, kind: _empty_moment(key, kind, parameters))
    state: dict[int, Tensors] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    saved = [
        {k: tuple(v) if isinstance(v, list) and k != "params" else v for k, v in group.items()} | {"capturable": False}
        for group in groups
    ]
    optimizer.load_state_dict({"state": state, "param_groups": saved})


def _on_host(value: Any) -> Any:
    """The value without tensors, as those of a captured step."""
    if isinstance(value, dict):
        return {key: _on_host(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_on_host(one) for one in value]
    return value.item() if isinstance(value, torch.Tensor) else value


def _empty_moment(key: str, kind: torch.Tensor, parameters: Sequence[torch.nn.Parameter]) -> torch.Tensor:
    """Room for what `_optimizer_tensors` has called `key`: fused kernels want it to lie in memory as the parameter does."""
    number, _, name = key.partition(".")
    parameter = parameters[int(number)]
    if kind.shape == parameter.shape and name != "step":
        return torch.empty_like(parameter, requires_grad=False)
    return torch.empty_like(kind, device="cpu")
