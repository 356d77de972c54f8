"""The likelihood of colours that go together: against logistics by hand, by enumeration, by counting."""

import math

import pytest
import torch

from hfgen.models import LIKELIHOODS

LEVELS = torch.arange(256, dtype=torch.float64) * 2 / 255 - 1
RGB, ALONE = (LIKELIHOODS[name](None) for name in ("discretized_logistic_rgb", "discretized_logistic"))


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def random_outputs(*leading, side=2, seed=0):
    """Locations inside of [-1, 1], scales around 0.1, coefficients of both signs."""
    location, log_scale, coefficient = torch.randn(
        3, *leading, 3, side, side, generator=seeded(seed), dtype=torch.float64
    )
    return torch.cat([0.4 * location, 0.3 * log_scale - 2.3, coefficient], dim=-3)


def pixel_outputs(location, log_scale, coefficient):
    """Of one pixel, (1, 9, 1, 1)."""
    return torch.tensor([*location, *log_scale, *coefficient], dtype=torch.float64).view(1, 9, 1, 1)


def bin_probability(level, location, log_scale):
    """Of one of the 256 levels, by the logistic's distribution function."""

    def below(x):
        return 1 / (1 + math.exp(-(x - location) / math.exp(log_scale)))

    low = 0.0 if level == 0 else below(LEVELS[level].item() - 1 / 255)
    high = 1.0 if level == 255 else below(LEVELS[level].item() + 1 / 255)
    return high - low


def test_log_prob_is_that_of_red_then_green_then_blue():
    outputs = random_outputs(4)
    levels = torch.randint(256, (4, 3, 2, 2), generator=seeded(1))
    found = RGB.log_prob(LEVELS[levels], outputs)
    expected = []
    for image, out in zip(levels, outputs, strict=True):
        total = 0.0
        for row in range(2):
            for column in range(2):
                mu, s, c = out[:, row, column].view(3, 3).tolist()
                r, g = (LEVELS[level].item() for level in image[:2, row, column])
                moved = (mu[0], mu[1] + math.tanh(c[0]) * r, mu[2] + math.tanh(c[1]) * r + math.tanh(c[2]) * g)
                for channel, level in enumerate(image[:, row, column].tolist()):
                    total += math.log(max(bin_probability(level, moved[channel], s[channel]), 1e-300))
        expected.append(total)
    # differences of distribution functions lose digits where a level is improbable
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6)


def test_without_coefficients_it_is_the_logistic_of_each_channel():
    outputs = random_outputs(3, 5)
    outputs[..., 6:, :, :] = 0
    x = LEVELS[torch.randint(256, (5, 3, 2, 2), generator=seeded(1))]
    alone = outputs[..., :6, :, :]
    torch.testing.assert_close(RGB.log_prob(x, outputs), ALONE.log_prob(x, alone))
    torch.testing.assert_close(RGB.mean(outputs), ALONE.mean(alone))


def test_probabilities_of_green_and_blue_given_red_sum_to_one():
    """Over all 65,536 pairs at one level of red, of which the probability is left."""
    outputs = pixel_outputs([0.2, -0.1, 0.4], [-2.0, -1.5, -2.5], [1.2, -0.7, 0.9])
    for level in (0, 90, 255):
        x = torch.cartesian_prod(LEVELS[[level]], LEVELS, LEVELS)[..., None, None]
        total = RGB.log_prob(x, outputs).exp().sum().item()
        assert total == pytest.approx(bin_probability(level, 0.2, -2.0), rel=1e-9)


@pytest.mark.parametrize("seed", [0, 1])
def test_samples_have_the_mean_and_go_together(seed):
    """Where hardly a draw is clipped the mean is the expectation."""
    count = 4000
    outputs = random_outputs(1, seed=seed)
    outputs[:, :3] /= 4
    outputs[:, 3:6] = -3 + 0.1 * outputs[:, 3:6]
    drawn = RGB.sample(outputs.expand(count, -1, -1, -1), seeded(0))
    error = 5 * drawn.std(0) / math.sqrt(count)
    assert ((drawn.mean(0) - RGB.mean(outputs)[0]).abs() < error).all()
    # the regression of green on red has the slope of its coefficient, five standard errors by the residuals
    red, green = (drawn[:, channel] - drawn[:, channel].mean(0) for channel in (0, 1))
    slope = (red * green).mean(0) / red.square().mean(0)
    error = 5 * (green - slope * red).std(0) / red.std(0) / math.sqrt(count)
    assert ((slope - outputs[0, 6].tanh()).abs() < error).all()
    assert (error < outputs[0, 6].tanh().abs()).any()


def test_mean_of_green_near_an_end_is_the_exact_one_but_for_what_is_clipped():
    """The exact expectation by a sum over all values of red."""
    outputs = pixel_outputs([0.6, 0.5, 0.0], [-2.0, -2.0, -2.0], [1.5, 0.0, 0.0])
    p_red = torch.tensor([bin_probability(level, 0.6, -2.0) for level in range(256)], dtype=torch.float64)
    moved = torch.stack([0.5 + math.tanh(1.5) * LEVELS, torch.full_like(LEVELS, -2.0)], 1).view(256, 2, 1, 1)
    exact = p_red @ ALONE.mean(moved).flatten()
    found = RGB.mean(outputs)[0, 1].item()
    assert exact > 0.85
    assert 0 <= found - exact.item() < 0.05


def test_a_row_of_a_sample_depends_on_its_own_generator():
    outputs = random_outputs(3, side=6).float()
    rows = RGB.sample(outputs, [seeded(i) for i in range(3)])
    assert rows.shape == (3, 3, 6, 6)
    for i in range(3):
        assert rows[i : i + 1].equal(RGB.sample(outputs[i : i + 1], seeded(i)))


def test_gradients_at_extreme_outputs_are_finite():
    extremes = torch.tensor([-1e4, -50.0, 0.0, 50.0])
    outputs = torch.cartesian_prod(extremes, extremes, torch.tensor([-1e4, 1e4])).repeat_interleave(3, 1)
    outputs = outputs[..., None, None].requires_grad_()
    log_p = RGB.log_prob(torch.tensor([-1.0, 1.0, 1 / 255]).view(1, 3, 1, 1), outputs)
    log_p.sum().backward()
    assert log_p.isfinite().all()
    assert outputs.grad.isfinite().all()
