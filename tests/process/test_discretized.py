"""The mass that a Gaussian puts on an 8-bit value, against arithmetic of 60 digits."""

import itertools
import math

import mpmath
import pytest
import torch

from hfgen.process import discretized_gaussian_nll

VALUES = torch.arange(256, dtype=torch.float64)
MEANS = [-30.0, -1.3, -1.0, -0.5012, 0.0, 1 / 3, 0.999, 1.0, 4.0]
STANDARD_DEVIATIONS = [1e-5, 1e-3, 0.00729, 0.05, 0.6, 3.0]


def in_range(values):
    return torch.as_tensor(values, dtype=torch.float64) / 127.5 - 1


def nll(value, mean, std):
    std = torch.as_tensor(std, dtype=torch.float64)
    return discretized_gaussian_nll(in_range(value), torch.as_tensor(mean, dtype=torch.float64), 2 * std.log())


def reference(value: int, mean: float, std: float) -> float:
    """-log of the integral of the density over the value's bin, as the difference of two tails: their digits are enough.

    `mean` and `std` are binary numbers, used as they are; the middle of the bin is the exact fraction.
    """
    with mpmath.workdps(60):
        x = mpmath.mpf(value) / mpmath.mpf(127.5) - 1
        half = mpmath.mpf(1) / 255
        lower = -mpmath.inf if value == 0 else (x - half - mean) / mpmath.mpf(std)
        upper = mpmath.inf if value == 255 else (x + half - mean) / mpmath.mpf(std)
        if lower > 0:
            lower, upper = -upper, -lower
        tails = [mpmath.erfc(-z / mpmath.sqrt(2)) / 2 for z in (lower, upper)]
        return float(-mpmath.log(tails[1] - tails[0]))


@pytest.mark.parametrize("std", STANDARD_DEVIATIONS)
def test_masses_against_many_digits(std):
    """A bin's edge is known to 1e-16, so that z is known to 1e-16 / std, and log p(z) ~ z^2 / 2 to z times that."""
    values = [0, 1, 2, 63, 64, 127, 128, 170, 254, 255]
    pairs = list(itertools.product(values, MEANS))
    found = nll([p[0] for p in pairs], [p[1] for p in pairs], std)
    expected = torch.tensor([reference(*p, std) for p in pairs], dtype=torch.float64)
    assert found.isfinite().all()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("sigmas", [10, 38, 40, 100, 1e4, 1e8])
@pytest.mark.parametrize("side", [-1, 1])
def test_a_mean_many_standard_deviations_away_costs_what_it_should(sigmas, side):
    """Beyond 38 of them a distribution function is 0 or 1 in float64; the mass is that of the bin's nearer edge."""
    std = 0.01
    mean = in_range(100).item() + side * sigmas * std
    found = nll([100], mean, std).item()
    assert found == pytest.approx(reference(100, mean, std), rel=1e-9)
    edge = sigmas - (1 / 255) / std
    # Mills: log Q(z) = -z^2 / 2 - log(z sqrt(2 pi)) + O(z^-2)
    assert found == pytest.approx(edge**2 / 2 + math.log(edge * math.sqrt(2 * math.pi)), rel=1e-9, abs=2 / edge**2)


@pytest.mark.parametrize("std", STANDARD_DEVIATIONS)
def test_the_masses_of_all_values_sum_to_one(std):
    """Neighbouring bins share an edge to 1e-16 of a pixel, which is 1e-16 / std of z."""
    masses = nll(VALUES[:, None], MEANS, std).neg().exp().sum(0)
    torch.testing.assert_close(masses, torch.ones_like(masses), rtol=0, atol=1e-12 + 1e-15 / std)


def test_float32_pixels_fall_into_their_bins():
    """As `to_model_range` makes them, off by 6e-8; the edge bins are still the edge ones."""
    x = VALUES.float() / 127.5 - 1
    for std in (1e-3, 0.05, 3.0):
        mean, log_variance = torch.tensor(0.1), 2 * torch.tensor(std).log()
        exact = nll(VALUES, 0.1, std)
        rounded = discretized_gaussian_nll(x.double(), mean.double(), log_variance.double())
        torch.testing.assert_close(rounded, exact, rtol=1e-4, atol=1e-4)
        # float32 throughout, as on mps: a bin's width is a difference of numbers of size 1
        narrow = discretized_gaussian_nll(x, mean, log_variance).double()
        torch.testing.assert_close(narrow, exact, rtol=1e-3, atol=1e-3)


def test_the_edge_bins_reach_to_infinity():
    far = nll([0, 255], [-50.0, 50.0], 0.1)
    assert far.abs().max() < 1e-12
    half = nll([0, 255], [-1 + 1 / 255, 1 - 1 / 255], 0.1)
    torch.testing.assert_close(half.exp(), torch.full((2,), 2.0, dtype=torch.float64))


def test_shapes_broadcast():
    x = in_range(torch.randint(0, 256, (5, 2, 3, 3), generator=torch.Generator().manual_seed(0)).double())
    mean, log_variance = torch.zeros(5, 2, 3, 3).double(), torch.linspace(-3, 1, 5).double().view(5, 1, 1, 1)
    found = discretized_gaussian_nll(x, mean, log_variance)
    assert found.shape == x.shape
    torch.testing.assert_close(found[3], discretized_gaussian_nll(x[3], mean[3], log_variance[3]))
