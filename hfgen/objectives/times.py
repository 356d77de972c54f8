"""Which t a training step looks at, and with what weight, so that the mean over t stays what it is."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

HISTORY = 10
UNIFORM_SHARE = 1e-3


@dataclass
class UniformTimes:
    """t uniform on 1..T, each row by itself. Source: Ho et al. 2020, algorithm 1."""

    num_steps: int

    def sample(self, uniform: torch.Tensor, stratified: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Timesteps 0..T-1 (t = 1..T), int64, and weights with which the loss has the mean of uniform t, both (B,).

        `uniform`, (B,), is uniform on [0, 1) for each row by itself; of `stratified`, (B,), row i of the step's whole
        batch of n has its number in [i / n, (i + 1) / n).
        """
        return _timesteps(uniform, self.num_steps), torch.ones_like(uniform)

    def update(self, timesteps: torch.Tensor, losses: torch.Tensor):
        """Learn from the losses, unweighted and of all processes, (N,)."""


@dataclass
class StratifiedTimes(UniformTimes):
    """t uniform, the batch's rows evenly spread over 1..T: row i of n has its t in the i-th of n equal parts.

    The images come in random order, so that each has every t. Source: Kingma et al. 2021, appendix I.1, with a number of its own in each
    part.
    """

    def sample(self, uniform, stratified):
        return _timesteps(stratified, self.num_steps), torch.ones_like(uniform)


@dataclass
class ImportanceTimes(UniformTimes):
    """t with a probability that is proportional to the root of the mean square of its last 10 losses; unbiased.

    Rows are spread as in `StratifiedTimes`, in the quantiles of that distribution. Uniform until each t has been seen 10 times, and to a share of 0.001 afterwards.
    Nothing here waits for the device. Source: Nichol & Dhariwal 2021, section 3.3.
    """

    history: torch.Tensor = field(init=False)
    count: torch.Tensor = field(init=False)

    def __post_init__(self):
        self.history = torch.zeros(self.num_steps + 1, HISTORY)  # the last row takes what is not to be kept
        self.count = torch.zeros(self.num_steps, dtype=torch.int64)

    def sample(self, uniform, stratified):
        self._move(uniform.device)
        probability = self.probability()
        ends = probability.cumsum(0)
        timesteps = torch.searchsorted(ends, stratified.to(ends) * ends[-1], right=True)
        timesteps = timesteps.clamp(max=self.num_steps - 1)
        return timesteps, (1 / (self.num_steps * probability[timesteps])).to(uniform)

    def probability(self) -> torch.Tensor:
        """Of t = 1..T, float64 (T,)."""
        root = self.history[:-1].double().square().mean(1).sqrt().clamp(min=1e-300)
        learnt = (1 - UNIFORM_SHARE) * root / root.sum() + UNIFORM_SHARE / self.num_steps
        return torch.where((self.count >= HISTORY).all(), learnt, torch.full_like(root, 1 / self.num_steps))

    def update(self, timesteps, losses):
        self._move(timesteps.device)
        order = timesteps.argsort(stable=True)
        # an overflow, as of fp16, is nothing to learn from: it would stay in the probabilities for good
        losses = losses[order].float().nan_to_num(0, 0, 0)
        timesteps = timesteps[order]
        # the how-manieth of its t a loss is in this batch, from the front and from the back
        places = torch.arange(len(timesteps), device=timesteps.device)
        rank = places - torch.searchsorted(timesteps, timesteps)
        last = torch.searchsorted(timesteps, timesteps, right=True) - 1 - places
        rows = torch.where(last < HISTORY, timesteps, self.num_steps)
        self.history[rows, (self.count[timesteps] + rank) % HISTORY] = losses
        self.count.index_add_(0, timesteps, torch.ones_like(timesteps))

    def state_dict(self) -> dict:
        return {"history": self.history, "count": self.count}

    def load_state_dict(self, state: dict):
        self.history, self.count = state["history"], state["count"]

    def _move(self, device):
        if self.history.device != device:
            self.history, self.count = self.history.to(device), self.count.to(device)


TIMES = {"uniform": UniformTimes, "stratified": StratifiedTimes, "importance": ImportanceTimes}


def _timesteps(uniform: torch.Tensor, num_steps: int) -> torch.Tensor:
    return (uniform * num_steps).long().clamp_(max=num_steps - 1)
