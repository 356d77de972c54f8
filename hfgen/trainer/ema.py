"""The moving average of the weights, by diffusers' `EMAModel`, made safe to swap in and to store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers.training_utils import EMAModel


class WeightAverage:
    """EMA over a module's parameters: `update` after each optimizer step, `swapped_in` to use it."""

    def __init__(self, module: torch.nn.Module, max_decay: float, inv_gamma: float, power: float):
        self.names = [name for name, _ in module.named_parameters()]
        self.parameters = list(module.parameters())
        self.average = EMAModel(
            self.parameters, decay=max_decay, use_ema_warmup=True, inv_gamma=inv_gamma, power=power, foreach=True
        )

    def update(self) -> None:
        """Take in the weights after a step."""
        self.average.step(self.parameters)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The module has the averaged weights inside the block and its own again after it, also when it fails."""
        self.average.store(self.parameters)
        try:
            self.average.copy_to(self.parameters)
            yield
        finally:
            self.average.restore(self.parameters)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The averages by the parameters' names."""
        return {name: value.contiguous() for name, value in zip(self.names, self.average.shadow_params, strict=True)}

    def load(self, tensors: dict[str, torch.Tensor], step: int) -> None:
        """Go on from what `tensors` gave after that step."""
        self.average.optimization_step = step
        for name, shadow in zip(self.names, self.average.shadow_params, strict=True):
            shadow.copy_(tensors[name])
