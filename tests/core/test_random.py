"""Orders and random numbers are functions of the seed alone."""

import itertools

import numpy as np
import pytest
import torch

from hfgen.core.random import RowRandom, Stream, epoch_order, seeded

SHAPE = (1, 4, 4)


def numbers(seed=0, stream=Stream.TRAINING_NOISE, rows=100, normal=None, uniform=None):
    return RowRandom(
        seed=seed,
        stream=stream,
        normal={"noise": SHAPE} if normal is None else normal,
        uniform={"time": (), "flip": ()} if uniform is None else uniform,
        rows=rows,
        device=torch.device("cpu"),
    )


def draw(step, first, count, **changes):
    """All numbers of the rows: those of another draw stay as they are."""
    return numbers(rows=count, **changes).draw(step, first, count)


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
    whole = draw(7, 0, 100)
    assert whole["noise"].shape == (100, *SHAPE)
    assert whole["time"].shape == whole["flip"].shape == (100,)
    pieces = [draw(7, first, length) for first, length in partitions(100, parts, seed)]
    for name, values in whole.items():
        assert torch.cat([piece[name] for piece in pieces]).equal(values)


@pytest.mark.parametrize("uniforms", [0, 1, 64])
def test_a_row_has_as_many_uniforms_as_asked_for_and_the_same_noise(uniforms):
    drawn = draw(3, 20, 50, uniform={"pixels": (uniforms,)})
    assert drawn["pixels"].shape == (50, uniforms)
    assert len(drawn["pixels"].unique()) > 0.99 * drawn["pixels"].numel() - 1
    assert drawn["noise"].equal(draw(3, 20, 50)["noise"])
    later = draw(3, 40, 30, uniform={"pixels": (uniforms,)})
    assert all(later[name].equal(drawn[name][20:]) for name in drawn)


def test_numbers_are_those_of_a_generator_for_each_block_in_the_order_of_the_names():
    normal = {"noise": SHAPE, "z": (5,)}
    uniform = {"time": (), "pixels": (2, 3), "flip": ()}
    drawn = draw(4, 50, 60, seed=9, normal=normal, uniform=uniform)
    assert list(drawn) == [*normal, *uniform]
    blocks = []
    for block in (1, 2, 3):
        generator = seeded("cpu", 9, Stream.TRAINING_NOISE, 4, block)
        blocks.append([torch.randn(32, *shape, generator=generator) for shape in normal.values()])
        blocks[-1].append(torch.rand(32, 8, generator=generator))
    noise, z, u = (torch.cat(parts)[50 - 32 :][:60] for parts in zip(*blocks, strict=True))
    assert drawn["noise"].equal(noise)
    assert drawn["z"].equal(z)
    assert drawn["time"].equal(u[:, 0])
    assert drawn["pixels"].equal(u[:, 1:7].reshape(60, 2, 3))
    assert drawn["flip"].equal(u[:, 7])


@pytest.mark.parametrize(("first", "count"), [(0, 1), (31, 1), (31, 2), (31, 33), (0, 64), (40, 100)])
def test_each_step_writes_where_the_step_before_did(first, count):
    source = numbers(rows=count)
    before = source.draw(0, first, count)
    places = {name: values.data_ptr() for name, values in before.items()}
    kept = {name: values.clone() for name, values in before.items()}
    for step in (1, 2):
        drawn = source.draw(step, first, count)
        assert {name: values.data_ptr() for name, values in drawn.items()} == places
        # what was drawn before is overwritten, as a graph that reads it again expects
        assert all(before[name].equal(drawn[name]) and not kept[name].equal(drawn[name]) for name in drawn)


def test_without_names_nothing_is_drawn():
    assert draw(0, 0, 5, normal={}, uniform={}) == {}


def test_moments_of_noise_and_uniforms():
    drawn = draw(0, 0, 12_800, uniform={"u": (2,)})
    normal, uniform = drawn["noise"], drawn["u"]
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
        draw(step, first, 32, seed=seed, stream=stream)["noise"]
        for seed in (0, 1)
        for stream in (Stream.TRAINING_NOISE, Stream.VALIDATION_NOISE)
        for step in (0, 1)
        for first in (0, 32, 64)
    ]
    drawn = torch.cat(draws).flatten()
    # float32 normals seldom coincide: of n = 12,288 numbers n^2 / 2 pairs meet with a chance of some 1e-7 each
    assert len(drawn.unique()) > 0.995 * len(drawn)


def test_noise_is_a_function_of_its_key():
    first, again = draw(5, 10, 20, seed=3), draw(5, 10, 20, seed=3)
    assert all(first[name].equal(again[name]) for name in first)
