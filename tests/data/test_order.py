"""Order and noise are functions of the seed alone."""

import itertools

import numpy as np
import pytest
import torch

from hfgen.data.order import RowNoise, Stream, epoch_order


def noise(seed=0, stream=Stream.TRAINING_NOISE, shape=(1, 4, 4), uniforms=2):
    return RowNoise(seed, stream, shape, uniforms, torch.device("cpu"))


@pytest.mark.parametrize("count", [1, 2, 1000])
def test_epoch_order_is_a_permutation(count):
    assert epoch_order(0, 0, count).sort().values.equal(torch.arange(count))


def test_epoch_order_is_a_function_of_seed_and_epoch():
    orders = {(seed, epoch): epoch_order(seed, epoch, 100) for seed in (0, 1, 2**40) for epoch in (0, 1, 2)}
    for (seed, epoch), order in orders.items():
        torch.manual_seed(99)  # the global generator plays no part
        assert epoch_order(seed, epoch, 100).equal(order)
    assert len({tuple(order.tolist()) for order in orders.values()}) == len(orders)


def test_neighbours_of_one_epoch_are_apart_in_the_next():
    first, second = (epoch_order(0, epoch, 10_000) for epoch in (0, 1))
    correlation = np.corrcoef(first, second)[0, 1]
    # for independent permutations its standard deviation is 1 / sqrt(n)
    assert abs(correlation) < 5 / np.sqrt(10_000)


def partitions(count, parts, seed):
    """A random cut of range(count) into pieces (first, length)."""
    cuts = np.random.default_rng(seed).choice(np.arange(1, count), parts - 1, replace=False)
    edges = [0, *sorted(cuts.tolist()), count]
    return [(a, b - a) for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize(("parts", "seed"), [(2, 0), (3, 1), (5, 2), (17, 3), (100, 4)])
def test_any_partition_of_the_rows_draws_the_same_numbers(parts, seed):
    whole_noise, whole_uniform = noise().draw(7, 0, 100)
    assert whole_noise.shape == (100, 1, 4, 4)
    assert whole_uniform.shape == (100, 2)
    pieces = [noise().draw(7, first, length) for first, length in partitions(100, parts, seed)]
    assert torch.cat([n for n, _ in pieces]).equal(whole_noise)
    assert torch.cat([u for _, u in pieces]).equal(whole_uniform)


@pytest.mark.parametrize("uniforms", [0, 1, 64])
def test_a_row_has_as_many_uniforms_as_asked_for_and_the_same_noise(uniforms):
    normal, uniform = noise(uniforms=uniforms).draw(3, 20, 50)
    assert uniform.shape == (50, uniforms)
    assert len(uniform.unique()) > 0.99 * uniform.numel() - 1
    assert normal.equal(noise().draw(3, 20, 50)[0])
    later, rest = noise(uniforms=uniforms).draw(3, 40, 30)
    assert later.equal(normal[20:])
    assert rest.equal(uniform[20:])


def test_moments_of_noise_and_uniforms():
    normal, uniform = noise().draw(0, 0, 12_800)
    count = normal.numel()
    # five standard errors each: of a mean, of a variance (2 / n for a Gaussian, 1 / 180 n for a uniform), of a mean
    # product of neighbouring rows
    assert abs(normal.mean()) < 5 / np.sqrt(count)
    assert abs(normal.var() - 1) < 5 * np.sqrt(2 / count)
    assert abs((normal[1:] * normal[:-1]).mean()) < 5 / np.sqrt(count)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert abs(uniform.mean() - 1 / 2) < 5 / np.sqrt(12 * uniform.numel())
    assert abs(uniform.var() - 1 / 12) < 5 / np.sqrt(180 * uniform.numel())


def test_seeds_streams_steps_and_blocks_share_no_numbers():
    draws = [
        noise(seed, stream).draw(step, first, 32)[0]
        for seed in (0, 1)
        for stream in (Stream.TRAINING_NOISE, Stream.VALIDATION_NOISE)
        for step in (0, 1)
        for first in (0, 32, 64)
    ]
    numbers = torch.cat(draws).flatten()
    # float32 normals seldom coincide: of n = 12,288 numbers n^2 / 2 pairs meet with a chance of some 1e-7 each
    assert len(numbers.unique()) > 0.995 * len(numbers)


def test_noise_is_a_function_of_its_key():
    first, again = noise(3).draw(5, 10, 20), noise(3).draw(5, 10, 20)
    assert all(a.equal(b) for a, b in zip(first, again, strict=True))
