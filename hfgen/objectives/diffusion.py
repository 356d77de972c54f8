"""The training losses of a diffusion model: what is predicted, how it is weighted, and a learned variance."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from hfgen.likelihood.process import DiffusionProcess
from hfgen.objectives.weights import on_prediction

HYBRID_SHARE = 1e-3


@dataclass
class DiffusionLoss:
    """The weighted squared error of the prediction and, for a learned variance, the bound with it.

    Without a learned variance: w(t) times the mean over pixels of (prediction - target)^2. With one:
    - "hybrid": that plus 0.001 T L_{t-1} / D, the mean of p held fixed in it (L_hybrid),
    - "vlb": T L_{t-1} / D alone (L_vlb); its mean over t is the bound but for L_T, in nats per pixel value.

    Attributes:
        process: knows the prediction and the variance.
        weight: float64 (T,), of the squared error of x_0 (see `hfgen.objectives.weights`).
        variance_objective: "hybrid" or "vlb"; of no account for a fixed variance.

    Source: Ho et al. 2020, equation 14; Nichol & Dhariwal 2021, equations 15 and 16.
    """

    process: DiffusionProcess
    weight: torch.Tensor
    variance_objective: str = "hybrid"
    _device: torch.device | None = field(default=None, init=False, repr=False)

    def __call__(
        self, output: torch.Tensor, x_0: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """The loss of each row, (B,), from the network's `output`; x_0 in [-1, 1] and noise are (B, C, H, W), timesteps (B,)."""
        self._move(x_0.device)
        if self.process.learned_variance and self.variance_objective == "vlb":
            return self._bound(output, x_0, noise, timesteps)
        prediction, extra = output.chunk(2, dim=1) if self.process.learned_variance else (output, None)
        error = (prediction - self.process.target(x_0, noise, timesteps)).square().flatten(1).mean(1)
        loss = self._weight[timesteps] * error
        if extra is None:
            return loss
        fixed_mean = torch.cat([prediction.detach(), extra], dim=1)
        return loss + HYBRID_SHARE * self._bound(fixed_mean, x_0, noise, timesteps)

    def noisy(self, x_0: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise, in the dtype of x_0."""
        self._move(x_0.device)
        signal, sigma = self._coefficients[:, timesteps].reshape(2, -1, *[1] * (x_0.ndim - 1)).unbind()
        return signal * x_0 + sigma * noise

    def _bound(self, output, x_0, noise, timesteps):
        return self.process.num_steps / x_0[0].numel() * self.process.terms_of_output(output, x_0, noise, timesteps)

    def _move(self, device):
        if self._device != device:
            self._device = device
            self.process = self.process.to(device)
            self._weight = on_prediction(self.process, self.weight.to(self.process.beta)).float().to(device)
            alpha_bar = self.process.alpha_bar
            self._coefficients = torch.stack([alpha_bar.sqrt(), (1 - alpha_bar).sqrt()]).float().to(device)
