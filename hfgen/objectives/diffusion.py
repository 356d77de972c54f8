"""The training losses of a diffusion model: what is predicted, how it is weighted, and a learned variance."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from hfgen.objectives.weights import on_prediction
from hfgen.process import ReverseProcess

HYBRID_SHARE = 1e-3


class DiffusionLoss(nn.Module):
    """The weighted squared error of the prediction and, for a learned variance, the bound with it.

    Without a learned variance: w(t) times the mean over pixels of (prediction - target)^2. With one:
    - "hybrid": that plus 0.001 T L_{t-1} / D, the mean of p held fixed in it (L_hybrid),
    - "vlb": T L_{t-1} / D alone (L_vlb); its mean over t is the bound but for L_T, in nats per pixel value.

    It has nothing to train or to save; move it with `to(device)`.

    Args:
        process: knows the prediction and the variance.
        weight: float64 (T,), of the squared error of x_0 (see `hfgen.objectives.weights`).
        variance_objective: "hybrid" or "vlb"; of no account for a fixed variance.

    Source: Ho et al. 2020, equation 14; Nichol & Dhariwal 2021, equations 15 and 16.
    """

    weight: torch.Tensor

    def __init__(self, process: ReverseProcess, weight: torch.Tensor, variance_objective: str = "hybrid"):
        super().__init__()
        self.process, self.variance_objective = process, variance_objective
        self.register_buffer("weight", on_prediction(process, weight).float(), persistent=False)

    def forward(
        self, output: torch.Tensor, x_0: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """The loss of each row, (B,), from the network's `output`; x_0 in [-1, 1] and noise are (B, C, ...), timesteps (B,)."""
        if self.process.learned_variance and self.variance_objective == "vlb":
            return self._bound(output, x_0, noise, timesteps)
        prediction, extra = output.chunk(2, dim=1) if self.process.learned_variance else (output, None)
        target = self.process.parameterization.target(self.process.forward, x_0, noise, timesteps)
        loss = self.weight[timesteps] * (prediction - target).square().flatten(1).mean(1)
        if extra is None:
            return loss
        # the bound's gradient of the mean is far noisier than the squared error's: it is to train the variance alone
        fixed_mean = torch.cat([prediction.detach(), extra], dim=1)
        return loss + HYBRID_SHARE * self._bound(fixed_mean, x_0, noise, timesteps)

    def add_noise(self, x_0: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """x_t, what the network is to be shown, in the dtype of x_0."""
        return self.process.forward.add_noise(x_0, noise, timesteps)

    def _bound(
        self, output: torch.Tensor, x_0: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        return self.process.num_steps / x_0[0].numel() * self.process.terms_of_output(output, x_0, noise, timesteps)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> DiffusionLoss:
        # the tables of the process are no buffers: they stay float64 whatever is asked for, and on the CPU for mps
        super()._apply(fn, recurse)
        self.process = self.process.to(self.weight.device)
        return self
