"""A stock pipeline of a learned schedule, asked as the variational diffusion model that it came from."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from hfgen.schedulers import reverse_process


class Chain:
    """The network of a stock pipeline, asked as a `VDMModel`, with the gammas of its chain."""

    def __init__(self, pipeline: Any):
        self.unet, scheduler = pipeline.unet, pipeline.scheduler
        # of the config's betas, which the scheduler rounds to float32
        gamma = reverse_process(scheduler).forward.gamma
        self.device, self.schedule = self.unet.device, ChainSchedule(gamma.to(self.unet.device))
        self.config = SimpleNamespace(gamma="chain", prediction_type=scheduler.config.prediction_type)

    def eval(self) -> Chain:
        """As a network's."""
        self.unet.eval()
        return self

    def __call__(self, z: torch.Tensor, gamma: torch.Tensor) -> Any:
        """What the network says of z, (B, C, H, W), at gammas of the chain, (B,)."""
        timesteps = (self.schedule.gamma - gamma[:, None]).abs().argmin(1)
        return self.unet(z.to(self.unet.dtype), timesteps)


@dataclass(frozen=True)
class ChainSchedule:
    """gamma(t) at t = i / (T - 1), from a table of T, float64."""

    gamma: torch.Tensor

    def ends(self, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
        """gamma(0) and gamma(1), scalars."""
        return self.gamma[0].to(dtype), self.gamma[-1].to(dtype)

    def __call__(self, t: torch.Tensor) -> torch.Tensor:
        """gamma(t), (B,), of t (B,)."""
        return self.gamma[(t * (len(self.gamma) - 1)).round().long()]
