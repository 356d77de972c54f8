"""Black or white pixels: by uniforms that are given, or by numbers fixed for ever."""

import math

import numpy as np
import pytest
import torch

from hfgen.core.binarize import binarize, fixed_uniform
from hfgen.core.media import to_model_range
from hfgen.data.digits import embedded_digits

KEY = (0, 1)


def uniform(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def rows(count):
    return torch.arange(count)


def digits(count):
    """The first digits in [-1, 1], (count, 1, 8, 8)."""
    images = embedded_digits()["train"][:count]["image"]
    return to_model_range(torch.stack([torch.from_numpy(np.array(image)) for image in images])[:, None])


def test_none_leaves_the_images_grey():
    x = digits(3)
    assert binarize(None, x, uniform(3, 64), rows(3), KEY) is x
    assert binarize(None, x, torch.empty(3, 0), rows(3), KEY) is x


# dynamic


def test_a_pixel_is_white_exactly_if_its_uniform_is_below_its_grey_value():
    grey = torch.arange(64) / 64  # 2 * grey - 1 is exact in float32
    below = torch.nextafter(grey, torch.tensor(-1.0)).clamp(min=0)
    for u, white in ((grey, torch.zeros(64)), (below, (grey > 0).float()), (grey / 2, (grey > 0).float())):
        x = binarize("dynamic", (2 * grey - 1).view(1, 1, 8, 8), u[None], rows(1), KEY)
        assert x.dtype == torch.float32
        assert x.flatten().equal(2 * white - 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_each_pixel_has_a_uniform_of_its_own_in_the_order_of_the_image(channels):
    x, u = uniform(5, channels, 4, 4, seed=1) * 2 - 1, uniform(5, channels * 16)
    expected = [
        [[[1.0 if u[b, (c * 4 + i) * 4 + j] < (x[b, c, i, j] + 1) / 2 else -1.0 for j in range(4)] for i in range(4)]
         for c in range(channels)]
        for b in range(5)
    ]  # fmt: skip
    expected = torch.tensor(expected)
    assert binarize("dynamic", x, u, rows(5), KEY).equal(expected)
    # as the training loop passes them: images channels last, uniforms beside one that is for something else
    wide = torch.cat([u, torch.zeros(5, 1)], dim=1)[:, :-1]
    last = x.contiguous(memory_format=torch.channels_last)
    assert binarize("dynamic", last, wide, rows(5), KEY).equal(expected)


def test_dynamic_pixels_are_white_as_often_as_they_are_grey():
    grey = torch.linspace(0, 1, 64).view(1, 1, 8, 8)
    count = 10_000
    x = binarize("dynamic", (2 * grey - 1).expand(count, -1, -1, -1), uniform(count, 64), rows(count), KEY)
    assert set(x.unique().tolist()) == {-1.0, 1.0}
    # five standard errors each, and none where there is no choice
    allowed = 5 * (grey * (1 - grey) / count).sqrt() + 1e-6
    assert ((x > 0).float().mean(0, keepdim=True) - grey).abs().le(allowed).all()


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_black_stays_black_and_white_stays_white(kind):
    """Of 8-bit values 0 and 255, whatever the uniform, its smallest and its largest value among them."""
    smallest, largest = torch.zeros(1, 64), torch.full((1, 64), 1 - 2**-24)
    for level, value in ((0, -1), (255, 1)):
        x = to_model_range(torch.full((1, 1, 8, 8), level, dtype=torch.uint8))
        for u in (smallest, largest, uniform(1, 64)):
            assert binarize(kind, x, u, rows(1), KEY).eq(value).all()
        many = x.expand(2000, -1, -1, -1)
        assert binarize(kind, many, uniform(2000, 64), rows(2000), KEY).eq(value).all()


# static


def test_a_row_is_the_same_in_any_batch_order_and_slice():
    x = digits(50)
    whole = binarize("static", x, torch.empty(50, 0), rows(50), KEY)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    shuffled = binarize("static", x[order], uniform(50, 64, seed=7), order, KEY)
    assert shuffled.equal(whole[order])
    pieces = [binarize("static", x[part], torch.empty(len(part), 0), part, KEY) for part in rows(50).split(7)]
    assert torch.cat(pieces).equal(whole)
    twice = binarize("static", x[[3, 3]], torch.empty(2, 0), torch.tensor([3, 3]), KEY)
    assert twice.equal(whole[[3, 3]])
    assert fixed_uniform(rows(50), 64, KEY)[:, :10].equal(fixed_uniform(rows(50), 10, KEY))


def test_a_static_image_is_white_where_its_fixed_numbers_are_below_its_grey_values():
    x = digits(20)
    u = fixed_uniform(rows(20), 64, KEY)
    assert binarize("static", x, torch.empty(20, 0), rows(20), KEY).equal(binarize("dynamic", x, u, rows(20), KEY))


def test_another_key_or_row_has_other_numbers():
    keys = [(0, 1), (1, 1), (0, 2), (1, 0), (2**32 - 1, 1), (0, 1, 0), (0,)]
    numbers = {key: fixed_uniform(rows(3), 64, key) for key in keys}
    one = torch.cat(list(numbers.values()))
    # of 21 rows of 64 numbers with 24 bits, two meet in a place with a chance of 210 * 64 / 2^24 = 0.0008
    for i in range(len(one)):
        for j in range(i):
            assert not one[i].eq(one[j]).any()


def fmix64(k):
    """The finalizer of MurmurHash3 in whole numbers. Source: Appleby 2016, MurmurHash3.cpp."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        k = (k ^ (k >> 33)) * factor % 2**64
    return k ^ (k >> 33)


def test_fixed_numbers_are_the_hash_in_whole_numbers():
    """The numbers of an image must be the same with every release: they belong to the data."""

    def number(key, row, place):
        state = 0
        for part in key:
            state = fmix64((state + part + 1) % 2**64)
        state = fmix64((fmix64((state + row + 1) % 2**64) + place + 1) % 2**64)
        return (state >> 40) / 2**24

    for key, row in ((KEY, 0), (KEY, 59_999), ((2**32 - 1, 2), 7), ((3,), 2**40)):
        expected = [number(key, row, place) for place in range(784)]
        assert fixed_uniform(torch.tensor([row]), 784, key)[0].tolist() == expected


def test_static_pixels_are_white_as_often_as_they_are_grey():
    grey = torch.linspace(0, 1, 64).view(1, 1, 8, 8)
    count = 10_000
    x = (2 * grey - 1).expand(count, -1, -1, -1)
    white = (binarize("static", x, torch.empty(count, 0), rows(count), KEY) > 0).float().mean(0, keepdim=True)
    assert (white - grey).abs().le(5 * (grey * (1 - grey) / count).sqrt() + 1e-6).all()


@pytest.mark.parametrize("key", [(0, 1), (12345, 2)])
def test_fixed_numbers_are_uniform(key):
    numbers = fixed_uniform(rows(2000), 64, key)
    count = numbers.numel()
    assert numbers.dtype == torch.float32
    assert numbers.min() >= 0
    assert numbers.max() < 1
    # a chi-squared of 255 degrees of freedom: mean 255, variance 510; five standard deviations. So for all, for each
    # bit of the hash that is used, and for the means of rows and of places
    counts = torch.histc(numbers, 256, 0, 1)
    chi_squared = ((counts - count / 256) ** 2 / (count / 256)).sum()
    assert abs(chi_squared - 255) < 5 * math.sqrt(510)
    whole = (numbers.double() * 2**24).long()
    for bit in range(24):
        assert abs((whole >> bit & 1).double().mean() - 0.5) < 5 * 0.5 / math.sqrt(count)
    for dim in (0, 1):
        # the largest of up to 2,000 means: five and a half standard errors are passed with a chance of 1e-4
        assert (numbers.mean(dim) - 0.5).abs().max() < 5.5 / math.sqrt(12 * numbers.shape[dim])


def correlation(a, b):
    """Times the square root of the count: standard normal for independent numbers."""
    a, b = a.flatten().double(), b.flatten().double()
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1]) * math.sqrt(len(a))


def test_fixed_numbers_of_neighbours_are_not_correlated():
    numbers = fixed_uniform(rows(2000), 64, KEY)
    pairs = {
        "rows": (numbers[1:], numbers[:-1]),
        "places": (numbers[:, 1:], numbers[:, :-1]),
        "rows of an image": (numbers[:, 8:], numbers[:, :-8]),
        "diagonals": (numbers[1:, :-1], numbers[:-1, 1:]),
        "seeds": (numbers, fixed_uniform(rows(2000), 64, (1, 1))),
        "streams": (numbers, fixed_uniform(rows(2000), 64, (0, 2))),
    }
    for name, (a, b) in pairs.items():
        assert abs(correlation(a, b)) < 5, name
    # between all pairs of places: 2,016 of them, the largest of which passes 5.5 with a chance of 1e-4
    between = torch.corrcoef(numbers.T.double()).fill_diagonal_(0)
    assert between.abs().max() * math.sqrt(2000) < 5.5
