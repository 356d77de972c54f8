"""The moving average of the weights, by diffusers' `EMAModel`, made safe to swap in and to store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers.training_utils import EMAModel

from hfgen.trainer.parts import joined, local_part


class WeightAverage:
    """EMA over a module's parameters: `update` after each optimizer step, `swapped_in` to use it.

    Of parameters in shards each process averages its own.
    """

    def __init__(self, module: torch.nn.Module, max_decay: float, inv_gamma: float, power: float):
        self.of = dict(module.named_parameters())
        self.parameters = [local_part(parameter) for parameter in self.of.values()]
        self.count: torch.Tensor | None = None
        self.average = EMAModel(
            self.parameters, decay=max_decay, use_ema_warmup=True, inv_gamma=inv_gamma, power=power, foreach=True
        )

    def update(self) -> None:
        """Take in the weights after a step."""
        if self.count is None:
            self.average.step(self.parameters)
        else:
            self._update(self.count)

    def count_on(self, device: torch.device) -> None:
        """Count the steps there from now on, so that a captured update has the decay of its step."""
        dtype = torch.float32 if device.type == "mps" else torch.float64
        self.count = torch.tensor(float(self.average.optimization_step), dtype=dtype, device=device)

    def count_on_host(self) -> None:
        """Count them as before."""
        if self.count is not None:
            self.average.optimization_step, self.count = int(self.count), None

    @torch.no_grad()
    def _update(self, count: torch.Tensor) -> None:
        """`EMAModel.step`, of which nothing depends on the host."""
        average = self.average
        count += 1
        decay = (1 - (count.sub(1) / average.inv_gamma + 1) ** -average.power).clamp(max=average.decay)
        rest = torch.where(count > 1, 1 - decay, 1.0).float()
        pairs = list(zip(average.shadow_params, self.parameters, strict=True))
        trained = [(shadow, own) for shadow, own in pairs if own.requires_grad]
        shadows = [shadow for shadow, _ in trained]
        change = torch._foreach_sub(shadows, [own for _, own in trained])
        torch._foreach_mul_(change, rest)
        torch._foreach_sub_(shadows, change)
        for shadow, own in pairs:
            if not own.requires_grad:
                shadow.copy_(own)

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
        """The averages themselves, by the parameters' names; in parts where the parameters are."""
        return {
            name: joined(shadow, parameter)
            for (name, parameter), shadow in zip(self.of.items(), self.average.shadow_params, strict=True)
        }

    def resume(self, step: int) -> None:
        """Go on after that step, with what has been copied into `tensors`."""
        self.average.optimization_step = step
