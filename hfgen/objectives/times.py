"""Which t a training step looks at, and with what weight, so that the mean over t stays what it is.

Move them with `to(device)`: their tensors are where those that they are given must be.
"""

from __future__ import annotations

import torch
from torch import nn

from hfgen.process import to_float64

HISTORY = 10
UNIFORM_SHARE = 1e-3


class UniformTimes(nn.Module):
    """t uniform on 1..T, each row by itself. Source: Ho et al. 2020, algorithm 1."""

    def __init__(self, num_steps: int):
        super().__init__()
        self.num_steps = num_steps

    def sample(self, uniform: torch.Tensor, stratified: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Timesteps 0..T-1 (t = 1..T), int64, and weights with which the loss has the mean of uniform t, both (B,).

        `uniform`, (B,), is uniform on [0, 1) for each row by itself; of `stratified`, (B,), row i of the step's whole
        batch of n has its number in [i / n, (i + 1) / n).
        """
        return _timesteps(uniform, self.num_steps), torch.ones_like(uniform)

    def update(self, timesteps: torch.Tensor, losses: torch.Tensor) -> None:
        """Learn from the losses, unweighted and of all processes, (N,)."""


class StratifiedTimes(UniformTimes):
    """t uniform, the batch's rows evenly spread over 1..T: row i of n has its t in the i-th of n equal parts.

    The images come in random order, so that each has every t. Source: Kingma et al. 2021, appendix I.1, with a number of its own in each
    part.
    """

    def sample(self, uniform: torch.Tensor, stratified: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return _timesteps(stratified, self.num_steps), torch.ones_like(uniform)


class ImportanceTimes(UniformTimes):
    """t with a probability that is proportional to the root of the mean square of its last 10 losses; unbiased.

    Rows are spread as in `StratifiedTimes`, in the quantiles of that distribution. Uniform until each t has been seen 10 times, and to a share of 0.001 afterwards.
    Nothing here waits for the device. Its state is what it has learnt, `history` and `count`. Source: Nichol & Dhariwal 2021, section 3.3.
    """

    history: torch.Tensor
    count: torch.Tensor

    def __init__(self, num_steps: int):
        super().__init__(num_steps)
        # the last row takes what is not to be kept, so that `update` writes a number of entries that is known beforehand
        self.register_buffer("history", torch.zeros(num_steps + 1, HISTORY))
        self.register_buffer("count", torch.zeros(num_steps, dtype=torch.int64))

    def sample(self, uniform: torch.Tensor, stratified: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # t comes with probability p(t), its loss counts 1 / (T p(t)) times: the mean is that of uniform t, whatever p was learnt
        probability = self.probability()
        ends = probability.cumsum(0)
        timesteps = torch.searchsorted(ends, stratified.to(ends) * ends[-1], right=True)
        timesteps = timesteps.clamp(max=self.num_steps - 1)
        return timesteps, (1 / (self.num_steps * probability[timesteps])).to(uniform)

    def probability(self) -> torch.Tensor:
        """Of t = 1..T, float64 (T,), float32 on mps."""
        root = to_float64(self.history[:-1]).square().mean(1).sqrt()
        root = root.clamp(min=torch.finfo(root.dtype).tiny)  # not 0: where all losses are 0 each t has its share
        learnt = (1 - UNIFORM_SHARE) * root / root.sum() + UNIFORM_SHARE / self.num_steps
        return torch.where((self.count >= HISTORY).all(), learnt, torch.full_like(root, 1 / self.num_steps))

    def update(self, timesteps: torch.Tensor, losses: torch.Tensor) -> None:
        order = timesteps.argsort(stable=True)
        # an overflow, as of fp16, is nothing to learn from: it would stay in the probabilities for good
        losses = losses[order].float().nan_to_num(0, 0, 0)
        timesteps = timesteps[order]
        # how many of its t stand before and behind a loss in this batch
        places = torch.arange(len(timesteps), device=timesteps.device)
        before = places - torch.searchsorted(timesteps, timesteps)
        behind = torch.searchsorted(timesteps, timesteps, right=True) - 1 - places
        # of a t that came more than 10 times the first ones would share places with the last, in no certain order
        rows = torch.where(behind < HISTORY, timesteps, self.num_steps)
        self.history[rows, (self.count[timesteps] + before) % HISTORY] = losses
        self.count.index_add_(0, timesteps, torch.ones_like(timesteps))


TIMES: dict[str, type[UniformTimes]] = {
    "uniform": UniformTimes,
    "stratified": StratifiedTimes,
    "importance": ImportanceTimes,
}


def _timesteps(uniform: torch.Tensor, num_steps: int) -> torch.Tensor:
    # the largest float32 below 1, and a float64 that was rounded to 1, may give T
    return (uniform * num_steps).long().clamp_(max=num_steps - 1)
