"""Which t a step looks at: unbiased whatever the kind, and importance sampling against a plain reference."""

import random
from collections import deque

import numpy as np
import pytest
import torch

from hfgen.objectives.times import TIMES, ImportanceTimes, StratifiedTimes, UniformTimes

STEPS = 12
F = [(i - 3.0) ** 2 for i in range(STEPS)]


class PlainImportance:
    """Section 3.3 of Nichol & Dhariwal 2021 with lists, and with a share of 0.001 left uniform."""

    def __init__(self, num_steps):
        self.kept = [deque(maxlen=10) for _ in range(num_steps)]

    def update(self, timesteps, losses):
        for t, loss in zip(timesteps, losses, strict=True):
            self.kept[t].append(loss)

    def probability(self):
        count = len(self.kept)
        if any(len(kept) < 10 for kept in self.kept):
            return [1 / count] * count
        root = [(sum(loss**2 for loss in kept) / 10) ** 0.5 for kept in self.kept]
        return [0.999 * r / sum(root) + 0.001 / count for r in root]


def stratified_grid(rows):
    """Numbers in (0, 1), evenly spaced and in order."""
    return (torch.arange(rows, dtype=torch.float64) + 0.5) / rows


def rows_of(count, seed=0):
    """The numbers of a batch as the trainer draws them: row i in [i / n, (i + 1) / n)."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.arange(count) + torch.rand(count, generator=generator)) / count


def trained_importance():
    times, generator = ImportanceTimes(STEPS), torch.Generator().manual_seed(0)
    for _ in range(30):
        timesteps = torch.randperm(STEPS, generator=generator)
        times.update(timesteps, (1 + timesteps) ** 1.5 * torch.rand(STEPS, generator=generator))
    assert times.probability().max() > 3 * times.probability().min()
    return times


@pytest.mark.parametrize("kind", [UniformTimes(STEPS), StratifiedTimes(STEPS), trained_importance()])
def test_the_weighted_mean_is_that_of_uniform_times(kind):
    grid = stratified_grid(60_000)
    timesteps, weight = kind.sample(grid, grid)
    assert timesteps.dtype == torch.int64
    assert set(timesteps.tolist()) == set(range(STEPS))
    found = torch.zeros(STEPS, dtype=torch.float64).index_add(0, timesteps, weight) / len(grid)
    # each t has the points of an interval of its probability: one too many or too few, each of its weight
    assert torch.allclose(found, torch.full_like(found, 1 / STEPS), atol=2 * weight.max().item() / len(grid))
    assert (weight * torch.tensor(F)[timesteps]).mean().item() == pytest.approx(sum(F) / STEPS, rel=5e-3)


@pytest.mark.parametrize("kind", [UniformTimes(STEPS), StratifiedTimes(STEPS), trained_importance()])
def test_unbiased_over_batches_of_random_rows(kind):
    values, means = torch.tensor(F), []
    for seed in range(2000):
        uniform = torch.rand(8, generator=torch.Generator().manual_seed(seed))
        timesteps, weight = kind.sample(uniform, rows_of(8, seed))
        assert weight.dtype == uniform.dtype
        means.append((weight * values[timesteps]).mean())
    means = torch.stack(means)
    assert abs(means.mean().item() - sum(F) / STEPS) < 5 * (means.std() / len(means) ** 0.5).item()


@pytest.mark.parametrize("count", [4, 12, 25])
def test_stratified_rows_have_a_time_in_each_part(count):
    timesteps, weight = StratifiedTimes(1000).sample(torch.zeros(count), rows_of(count))
    assert weight.eq(1).all()
    for i, t in enumerate(timesteps.tolist()):
        # the t whose interval [t / T, (t + 1) / T) holds the row's number
        assert i * 1000 / count - 1 < t < (i + 1) * 1000 / count
    every, _ = StratifiedTimes(count).sample(torch.zeros(count), rows_of(count))
    assert every.tolist() == list(range(count))


def test_uniform_takes_each_rows_own_number():
    uniform = torch.tensor([0.99, 0.0, 0.5])
    timesteps, weight = UniformTimes(STEPS).sample(uniform, rows_of(3))
    assert timesteps.tolist() == [11, 0, 6]
    assert weight.tolist() == [1, 1, 1]


@pytest.mark.parametrize("kind", TIMES.values())
def test_numbers_that_round_to_1_stay_within_the_steps(kind):
    times = kind(STEPS)
    ends = torch.tensor([0.0, 1.0])
    assert times.sample(ends, ends)[0].tolist() == [0, STEPS - 1]


def test_uniform_until_every_step_was_seen_ten_times():
    times = ImportanceTimes(STEPS)
    everything = torch.arange(STEPS)
    for _ in range(9):
        times.update(everything, torch.arange(STEPS) + 1.0)
    times.update(everything[1:], torch.arange(1, STEPS) + 1.0)
    assert times.probability().tolist() == pytest.approx([1 / STEPS] * STEPS)
    timesteps, weight = times.sample(torch.zeros(STEPS), rows_of(STEPS))
    assert timesteps.tolist() == list(range(STEPS))
    assert weight.tolist() == pytest.approx([1.0] * STEPS)
    times.update(torch.tensor([0]), torch.tensor([1.0]))
    total = STEPS * (STEPS + 1) / 2
    expected = [0.999 * (i + 1) / total + 0.001 / STEPS for i in range(STEPS)]
    assert times.probability().tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("rows", [1, 5, 40, 300])
def test_importance_equals_a_plain_reference(rows):
    times, plain, draw = ImportanceTimes(STEPS), PlainImportance(STEPS), random.Random(0)
    was_uniform = was_learnt = False
    for step in range(max(8, 600 // rows)):
        # few t at a time, so that a batch of many rows has some t more than ten times
        allowed = draw.sample(range(STEPS), 3 if rows == 40 else STEPS)
        timesteps = [draw.choice(allowed) for _ in range(rows)]
        losses = torch.tensor([draw.expovariate(1.0) * (t + 1) for t in timesteps])
        times.update(torch.tensor(timesteps), losses)
        plain.update(timesteps, losses.tolist())
        expected = plain.probability()
        assert times.probability().tolist() == pytest.approx(expected, rel=1e-6), step
        was_uniform |= max(expected) == min(expected)
        was_learnt |= max(expected) > min(expected)
    assert was_learnt
    assert was_uniform or rows == 300


def test_more_than_ten_of_a_time_in_one_batch_leave_the_last_ten():
    times = ImportanceTimes(2)
    times.update(torch.tensor([0] * 25 + [1] * 10), torch.cat([torch.arange(25.0), torch.ones(10)]))
    root = (sum(i**2 for i in range(15, 25)) / 10) ** 0.5
    assert times.probability()[0].item() == pytest.approx(0.999 * root / (root + 1) + 0.0005)


def test_sampling_follows_the_probability():
    times = trained_importance()
    timesteps, weight = times.sample(torch.zeros(100_000), rows_of(100_000))
    share = timesteps.bincount(minlength=STEPS) / 100_000
    assert torch.allclose(share.double(), times.probability(), atol=3e-5)
    expected = 1 / (STEPS * times.probability()[timesteps])
    assert torch.allclose(weight.double(), expected, rtol=1e-6)
    assert timesteps.eq(timesteps.sort().values).all()


def test_state_survives_a_file(tmp_path):
    times = trained_importance()
    torch.save(times.state_dict(), tmp_path / "state")
    other = ImportanceTimes(STEPS)
    other.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    assert torch.equal(other.probability(), times.probability())
    for one in (times, other):
        one.update(torch.tensor([3, 3, 0]), torch.tensor([7.0, 8.0, 9.0]))
    assert torch.equal(other.probability(), times.probability())
    assert torch.equal(other.history[:-1], times.history[:-1])


@pytest.mark.parametrize("loss", [float("inf"), float("nan"), 0.0])
def test_an_overflow_does_not_end_the_training(loss):
    times = trained_importance()
    before = times.probability()
    times.update(torch.tensor([4]), torch.tensor([loss]))
    after = times.probability()
    assert after.sum().item() == pytest.approx(1)
    assert 0.5 * before[4] < after[4] < 1.2 * before[4]
    _, weight = times.sample(torch.zeros(100), rows_of(100))
    assert weight.isfinite().all()
    # where all losses are 0 the times are uniform
    times.update(torch.arange(STEPS).repeat(10), torch.zeros(10 * STEPS))
    assert times.probability().tolist() == pytest.approx([1 / STEPS] * STEPS)


@pytest.mark.parametrize("num_steps", [1000, 100, 33])
def test_evenly_spread_uniforms_visit_every_step_once(num_steps):
    uniform = (torch.arange(num_steps) + 0.5) / num_steps
    timesteps, _ = UniformTimes(num_steps).sample(uniform, uniform)
    assert timesteps.dtype == torch.int64
    assert timesteps.tolist() == list(range(num_steps))


def test_random_steps_are_uniform():
    uniform = torch.rand(100_000, generator=torch.Generator().manual_seed(0))
    counts = UniformTimes(100).sample(uniform, uniform)[0].bincount(minlength=100)
    assert len(counts) == 100
    chi_square = ((counts - 1000) ** 2 / 1000).sum().item()
    # 99 degrees of freedom: mean 99, variance 198; five standard deviations either way, as too even is wrong too
    assert abs(chi_square - 99) < 5 * np.sqrt(198)


@pytest.mark.parametrize("num_steps", [1000, 1024, 333, 100])
def test_ends_of_the_interval_stay_within_the_steps(num_steps):
    just_below_one = np.nextafter(1, 0, dtype=np.float64)
    uniform = torch.tensor([0.0, np.nextafter(np.float32(1), np.float32(0)), just_below_one], dtype=torch.float32)
    assert uniform[2] == 1  # float64 numbers just below 1 round up
    timesteps, _ = UniformTimes(num_steps).sample(uniform, uniform)
    assert timesteps.tolist() == [0, num_steps - 1, num_steps - 1]


def test_only_importance_times_have_a_state():
    assert {name: sorted(kind(STEPS).state_dict()) for name, kind in TIMES.items()} == {
        "uniform": [],
        "stratified": [],
        "importance": ["count", "history"],
    }
