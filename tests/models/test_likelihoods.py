"""The likelihoods p(x|z): probabilities by enumeration, values against float64 references, samples by counting."""

import math
from decimal import Decimal, localcontext

import pytest
import torch
import torch.nn.functional as F
from torch import distributions

from hfgen.models import LIKELIHOODS, MLPVAE

LEVELS = torch.arange(256, dtype=torch.float64) * 2 / 255 - 1
BLACK_WHITE = torch.tensor([-1.0, 1.0], dtype=torch.float64)
RGB = "discretized_logistic_rgb"  # of 3 channels alone: tests/models/test_rgb_likelihood.py
CASES = {name: LIKELIHOODS[name](None) for name in LIKELIHOODS if name != RGB}
CASES["gaussian_fixed"] = LIKELIHOODS["gaussian"](0.3)
VALUES = {
    "bernoulli": BLACK_WHITE,
    "bernoulli_static": BLACK_WHITE,
    "discretized_logistic": LEVELS,
    "categorical": LEVELS,
}
CONTINUOUS = ("gaussian", "gaussian_fixed")


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def random_outputs(name, *shape, seed=0, dtype=torch.float64):
    """Outputs of a decoder for images of shape (..., C, H, W); the logistic's scales from 0.02 to 1, as in training."""
    likelihood = CASES[name]
    shape = (*shape[:-3], shape[-3] * likelihood.channels, *shape[-2:])
    outputs = torch.randn(shape, generator=seeded(seed), dtype=torch.float64)
    if name == "discretized_logistic":
        location, log_scale = outputs.chunk(2, dim=-3)
        outputs = torch.cat([0.8 * location, log_scale.clamp(-2, 2) - 2], dim=-3)
    return (outputs if name == "discretized_logistic" else 2 * outputs).to(dtype)


def random_images(name, *shape, seed=1):
    values = VALUES.get(name, LEVELS)
    return values[torch.randint(len(values), shape, generator=seeded(seed))]


def pixel_probabilities(name, outputs):
    """log p of each value of one pixel, (L, values), for outputs (L, channels) of that pixel."""
    x = VALUES[name].view(-1, 1, 1, 1)
    return CASES[name].log_prob(x, outputs.view(len(outputs), 1, -1, 1, 1).expand(-1, len(x), -1, 1, 1))


# what each is


def test_kinds():
    discrete = {name for name, likelihood in CASES.items() if likelihood.discrete}
    assert discrete == set(VALUES)
    assert {name: likelihood.binarization for name, likelihood in CASES.items()} == {
        **dict.fromkeys(CASES),
        "bernoulli": "dynamic",
        "bernoulli_static": "static",
    }
    assert "pseudo" in CASES["bernoulli_grey"].quantity
    assert not any("pseudo" in likelihood.quantity for name, likelihood in CASES.items() if name != "bernoulli_grey")
    assert all("density" in CASES[name].quantity for name in CONTINUOUS)


@pytest.mark.parametrize("name", VALUES)
def test_probabilities_of_a_pixel_sum_to_one(name):
    outputs = random_outputs(name, 50, 1, 1, 1).flatten(1)
    log_p = pixel_probabilities(name, outputs)
    assert log_p.shape == (50, len(VALUES[name]))
    # float64 sums of 256 numbers
    torch.testing.assert_close(log_p.logsumexp(1), torch.zeros(50, dtype=torch.float64), rtol=0, atol=1e-12)


def test_grey_pixels_have_no_probability_distribution():
    """Summed over the 256 values the grey pseudo-likelihood gives more than 1: why it is not discrete."""
    logits = torch.tensor([-4.0, 0.0, 4.0], dtype=torch.float64).view(3, 1, 1, 1, 1).expand(3, 256, 1, 1, 1)
    total = CASES["bernoulli_grey"].log_prob(LEVELS.view(-1, 1, 1, 1), logits).exp().sum(1)
    # sum over g of exp(g l) / (1 + exp(l)), g = 0, 1/255, ..., 1: a geometric series, 128 at l = 0
    series = (1 - math.exp(4 * 256 / 255)) / (1 - math.exp(4 / 255)) / (1 + math.exp(4))
    torch.testing.assert_close(total, torch.tensor([series, 128, series], dtype=torch.float64))


# log_prob


def reference_log_prob(name, x, outputs):
    """log p(x|z) of each pixel, (L, B, C, H, W), from torch's distributions. Of C channels the decoder puts out C
    locations, then C log scales (or log variances); or 256 logits of the first channel, then of the second."""
    white = (x + 1) / 2
    if name.startswith("bernoulli"):
        nu = 1 / (1 + (-outputs).exp())
        if name == "bernoulli_grey":
            return white * nu.log() + (1 - white) * (1 - nu).log()
        return distributions.Bernoulli(nu).log_prob(white)
    if name == "gaussian_fixed":
        return distributions.Normal(outputs, math.sqrt(0.3)).log_prob(x)
    channels = x.shape[-3]
    if name == "gaussian":
        return distributions.Normal(outputs[..., :channels, :, :], (outputs[..., channels:, :, :] / 2).exp()).log_prob(
            x
        )
    level = (white * 255).round().long().expand(*outputs.shape[:-3], *x.shape[-3:])
    if name == "categorical":
        logits = (
            outputs.unflatten(-3, (channels, 256)).flatten(0, -6).flatten(0, 1).transpose(1, 2)
        )  # (L B, 256, C, H, W)
        return -F.cross_entropy(logits, level.flatten(0, -5).flatten(0, 1), reduction="none").view(level.shape)
    location, log_scale = outputs[..., :channels, :, :], outputs[..., channels:, :, :]
    cells = zip(level.flatten().tolist(), location.flatten().tolist(), log_scale.flatten().tolist(), strict=True)
    return torch.tensor([logistic_log_p(*cell) for cell in cells], dtype=torch.float64).view(level.shape)


def logistic_log_p(level, location, log_scale):
    """The log of a difference of two logistic CDFs with 60 digits; edge bins reach to infinity, log_scale to -7."""
    with localcontext() as context:
        context.prec = 60

        def sigmoid(a):
            return 1 / (1 + (-a).exp())

        location, scale = Decimal(location), Decimal(max(log_scale, -7.0)).exp()
        above = (Decimal(2 * level + 1) / 255 - 1 - location) / scale
        below = (Decimal(2 * level - 1) / 255 - 1 - location) / scale
        if level == 0:
            p = sigmoid(above)
        elif level == 255:
            p = sigmoid(-below)
        elif above + below > 0:  # in the upper tail both CDFs round to 1: their complements do not
            p = sigmoid(-below) - sigmoid(-above)
        else:
            p = sigmoid(above) - sigmoid(below)
        return float(p.ln())


@pytest.mark.parametrize("name", CASES)
def test_log_prob_is_the_sum_over_pixels_and_channels(name):
    x = random_images(name, 4, 2, 3, 3)
    outputs = random_outputs(name, 3, 4, 2, 3, 3)
    log_p = CASES[name].log_prob(x, outputs)
    assert log_p.shape == (3, 4)
    expected = reference_log_prob(name, x, outputs).sum((-3, -2, -1))
    # float64: sums of 18 terms
    torch.testing.assert_close(log_p, expected, rtol=1e-10, atol=1e-10)
    # without leading samples, (B,); with two leading dimensions, both
    torch.testing.assert_close(CASES[name].log_prob(x, outputs[0]), expected[0], rtol=1e-10, atol=1e-10)
    assert CASES[name].log_prob(x, outputs[None]).shape == (1, 3, 4)


def test_every_likelihood_is_tested():
    assert {*CASES, RGB} == {*LIKELIHOODS, "gaussian_fixed"}


def logistic_grid():
    """Levels at and next to the edges, locations inside, at and far outside [-1, 1], scales from e^-9 to e^5."""
    axes = [0, 1, 100, 254, 255], [-20.0, -1.0, -0.21, 0.0, 0.999, 1.0, 3.0], [-9.0, -7.0, -6.5, -3.0, 0.0, 5.0]
    return torch.cartesian_prod(*[torch.tensor(axis, dtype=torch.float64) for axis in axes])


# float32: x - location rounds by 6e-8, which the least scale, e^-7, makes 7e-5 on either side of the bin
@pytest.mark.parametrize(("dtype", "rtol", "atol"), [(torch.float64, 1e-11, 1e-11), (torch.float32, 2e-6, 4e-4)])
def test_logistic_at_edges_and_tiny_scales(dtype, rtol, atol):
    level, location, log_scale = logistic_grid().unbind(1)
    location, log_scale = location.to(dtype), log_scale.to(dtype)
    expected = [
        logistic_log_p(int(k), m, s) for k, m, s in zip(level, location.tolist(), log_scale.tolist(), strict=True)
    ]
    x = LEVELS[level.long()].to(dtype).view(-1, 1, 1, 1)
    log_p = CASES["discretized_logistic"].log_prob(x, torch.stack([location, log_scale], 1).view(-1, 2, 1, 1))
    assert log_p.dtype == dtype
    assert min(expected) < -20_000  # as far as a distance of 21 in scales of e^-7
    torch.testing.assert_close(log_p.double(), torch.tensor(expected, dtype=torch.float64), rtol=rtol, atol=atol)


def test_logistic_gradients_far_from_the_pixel():
    """In the tail log p falls by 1 / scale for each unit of distance: no plateau that stops learning."""
    outputs = torch.tensor([[50.0, 0.0], [-50.0, 0.0], [50.0, -7.0], [-50.0, -20.0]]).view(4, 2, 1, 1).requires_grad_()
    CASES["discretized_logistic"].log_prob(torch.zeros(4, 1, 1, 1), outputs).sum().backward()
    expected = torch.tensor([-1.0, 1.0, -math.exp(7), math.exp(7)])
    torch.testing.assert_close(outputs.grad[:, 0].flatten(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", [name for name in CASES if name != "gaussian"])
@pytest.mark.parametrize("value", [-1.0, 1 / 255, 1.0])
def test_gradients_at_extreme_outputs_are_finite(name, value):
    extremes = torch.tensor([-1e4, -50.0, 0.0, 50.0, 1e4])
    if name == "discretized_logistic":
        outputs = torch.cartesian_prod(extremes, torch.tensor([-1e4, -50.0, 0.0, 50.0]))
    else:
        outputs = torch.stack([extremes.roll(i) for i in range(CASES[name].channels)], 1)
    outputs = outputs[..., None, None].requires_grad_()
    log_p = CASES[name].log_prob(torch.full((len(outputs), 1, 1, 1), value), outputs)
    log_p.sum().backward()
    assert log_p.isfinite().all()
    assert outputs.grad.isfinite().all()


@pytest.mark.parametrize("value", [-1.0, 1 / 255, 1.0])
@pytest.mark.parametrize("log_scale", [85.0, 105.0, 1e4])
def test_gradients_at_huge_logistic_scales_are_finite(log_scale, value):
    """exp(-log_scale) rounds to a denormal number from 84, to 0 from 104 on."""
    outputs = torch.tensor([0.1, log_scale]).view(1, 2, 1, 1).requires_grad_()
    log_p = CASES["discretized_logistic"].log_prob(torch.full((1, 1, 1, 1), value), outputs)
    log_p.backward()
    assert log_p.isfinite().all()
    assert outputs.grad.isfinite().all()


def test_learned_variance_gets_its_gradient():
    vae = MLPVAE(sample_size=3, in_channels=2, hidden_sizes=(), likelihood="gaussian").double()
    vae.log_variance.data.fill_(-0.7)
    x, z = random_images("gaussian", 4, 2, 3, 3), torch.randn(5, 4, 2, generator=seeded(0), dtype=torch.float64)
    outputs = vae.decode_outputs(z)
    assert outputs.shape == (5, 4, 2 * 2, 3, 3)
    log_p = vae.likelihood.log_prob(x, outputs)
    mean = vae.decode(z.flatten(0, 1)).sample.view(5, 4, 2, 3, 3)
    expected = distributions.Normal(mean, math.exp(-0.35)).log_prob(x).sum((-3, -2, -1))
    torch.testing.assert_close(log_p, expected)
    log_p.sum().backward()
    # d log p / d log s2 = 1/2 sum of ((x - mean)^2 / s2 - 1), one s2 for all pixels
    slope = 0.5 * ((x - mean).square() * math.exp(0.7) - 1).sum()
    torch.testing.assert_close(vae.log_variance.grad, slope.detach())


def test_fixed_variance_has_no_parameter():
    vae = MLPVAE(sample_size=3, hidden_sizes=(), likelihood="gaussian", gaussian_variance=0.3)
    assert vae.log_variance is None
    assert vae.decode_outputs(torch.zeros(1, 2)).shape == (1, 1, 3, 3)
    assert "log_variance" not in dict(vae.named_parameters())


def test_learned_variance_is_a_parameter():
    vae = MLPVAE(sample_size=3, hidden_sizes=(), likelihood="gaussian")
    assert dict(vae.named_parameters())["log_variance"].numel() == 1


# mean and sample


@pytest.mark.parametrize("name", VALUES)
def test_mean_is_the_expectation_over_the_values(name):
    outputs = random_outputs(name, 50, 1, 1, 1).flatten(1)
    mean = CASES[name].mean(outputs[..., None, None])
    assert mean.shape == (50, 1, 1, 1)
    expected = pixel_probabilities(name, outputs).exp() @ VALUES[name]
    # float64 sums of 256 numbers
    torch.testing.assert_close(mean.flatten(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("location", "log_scale"), [(50.0, -9.0), (-50.0, 0.0), (0.0, 30.0), (0.5, -9.0)])
def test_logistic_mean_at_extreme_outputs(location, log_scale):
    outputs = torch.tensor([[location, log_scale]], dtype=torch.float64)
    expected = pixel_probabilities("discretized_logistic", outputs).exp() @ LEVELS
    mean = CASES["discretized_logistic"].mean(outputs[..., None, None])
    assert mean.abs().max() <= 1 + 1e-12
    torch.testing.assert_close(mean.flatten(), expected, rtol=0, atol=1e-12)


def test_mean_of_a_gaussian_is_the_decoders_output():
    for name in CONTINUOUS:
        outputs = random_outputs(name, 5, 2, 3, 3)
        assert CASES[name].mean(outputs).equal(outputs[:, :2])


@pytest.mark.parametrize("name", CASES)
def test_means_and_samples_have_the_images_shape(name):
    outputs = random_outputs(name, 3, 4, 2, 5, 5, dtype=torch.float32)
    mean, sample = CASES[name].mean(outputs), CASES[name].sample(outputs, seeded(0))
    assert mean.shape == sample.shape == (3, 4, 2, 5, 5)
    assert mean.dtype == sample.dtype == torch.float32
    # each pixel and channel has a mean of its own, which the samples follow
    ones = [CASES[name].mean(row) for row in outputs.flatten(0, 1)]
    torch.testing.assert_close(mean.flatten(0, 1), torch.stack(ones), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_mean_and_samples_agree_in_each_pixel_and_channel(name):
    count = 2000
    outputs = random_outputs(name, 1, 2, 2, 2)
    samples = CASES[name].sample(outputs.expand(count, *outputs.shape[1:]), seeded(3))
    # five standard errors, by the samples' own standard deviation, which is within a few per cent of the true one;
    # 0.003 for a pixel that is nearly always one value
    error = 5 * samples.std(0) / math.sqrt(count) + 3e-3
    assert ((samples.mean(0) - CASES[name].mean(outputs)[0]).abs() < error).all()
    # and the 8 pixels differ by more than this error
    assert CASES[name].mean(outputs).std() > 2 * error.mean()


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_samples_have_their_probabilities(name, seed):
    count, values = 20_000, VALUES[name]
    outputs = random_outputs(name, 1, 1, 1, 1, seed=seed)
    p = pixel_probabilities(name, outputs.flatten(1))[0].exp()
    # float32: the numbers of a training
    samples = CASES[name].sample(outputs.float().expand(count, -1, 1, 1), seeded(seed)).double().flatten()
    distance, level = (samples[:, None] - values).abs().min(1)
    assert distance.max() < 1e-6  # on the grid: float32 values below 1
    # the mean, within 5 standard errors by the enumerated variance
    mean = p @ values
    standard_error = (p @ (values - mean).square() / count).sqrt()
    assert (samples.mean() - mean).abs() < 5 * standard_error
    # each value by itself: those expected less than 10 times are counted as one
    expected, counts = count * p, level.bincount(minlength=len(values)).double()
    rare = expected < 10
    expected = torch.cat([expected[~rare], expected[rare].sum()[None] + 1e-9])
    counts = torch.cat([counts[~rare], counts[rare].sum()[None]])
    kept = expected > 1
    assert counts[~kept].sum() <= 10
    freedom = int(kept.sum()) - 1
    chi_square = ((counts - expected).square() / expected)[kept].sum()
    # mean `freedom`, variance 2 `freedom`; skewed when few: 6 standard deviations
    assert freedom >= 1
    assert chi_square < freedom + 6 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_moments_of_gaussian_samples(name):
    count = 50_000
    outputs = random_outputs(name, 1, 1, 1, 1)
    samples = CASES[name].sample(outputs.expand(count, -1, 1, 1), seeded(0)).flatten()
    variance = 0.3 if name == "gaussian_fixed" else outputs[0, 1].exp().item()
    # five standard errors: std / sqrt(n) of the mean, sqrt(2 / n) times the variance
    assert (samples.mean() - outputs[0, 0]).abs() < 5 * math.sqrt(variance / count)
    assert abs(samples.var().item() - variance) < 5 * variance * math.sqrt(2 / count)


@pytest.mark.parametrize(
    ("name", "outputs", "value"),
    [
        ("bernoulli", [40.0], 1),
        ("bernoulli", [-40.0], -1),
        ("discretized_logistic", [5.0, -9.0], 1),
        ("discretized_logistic", [-5.0, -9.0], -1),
        ("discretized_logistic", [float(LEVELS[77]), -7.0], LEVELS[77]),
        ("categorical", [60.0 * (i == 77) for i in range(256)], LEVELS[77]),
    ],
)
def test_samples_of_a_sure_decoder(name, outputs, value):
    samples = CASES[name].sample(torch.tensor(outputs).view(1, -1, 1, 1).expand(50, -1, 20, 20), seeded(0)).double()
    # the logistic of scale e^-7 leaves its bin with probability 0.027; plus 5 standard errors of 20,000 draws, 0.006
    hits = (samples - value).abs() < 1e-6
    share = 0.967 if -1 < value < 1 and name == "discretized_logistic" else 1
    assert hits.double().mean() >= share


@pytest.mark.parametrize("name", CASES)
def test_samples_of_a_generator(name):
    outputs = random_outputs(name, 4, 2, 6, 6, dtype=torch.float32)
    likelihood = CASES[name]
    assert likelihood.sample(outputs, seeded(0)).equal(likelihood.sample(outputs, seeded(0)))
    assert not likelihood.sample(outputs, seeded(0)).equal(likelihood.sample(outputs, seeded(1)))


@pytest.mark.parametrize("name", CASES)
def test_row_i_of_a_sample_depends_on_generator_i_alone(name):
    outputs = random_outputs(name, 4, 2, 6, 6, dtype=torch.float32)
    sample = CASES[name].sample
    rows = sample(outputs, [seeded(i) for i in range(4)])
    other = sample(outputs, [seeded(0), seeded(1), seeded(9), seeded(3)])
    assert rows.eq(other).flatten(1).all(1).tolist() == [True, True, False, True]
    for i in range(4):
        assert rows[i : i + 1].equal(sample(outputs[i : i + 1], seeded(i)))


@pytest.mark.parametrize("name", CASES)
def test_as_many_generators_as_rows(name):
    with pytest.raises(ValueError, match="shorter"):
        CASES[name].sample(random_outputs(name, 4, 1, 2, 2), [seeded(0)] * 3)


@pytest.mark.parametrize("name", sorted(VALUES))
def test_outputs_in_bf16_are_drawn_from_by_the_same_numbers_as_in_float32(name):
    """Numbers drawn in 16 bits are multiples of 1/256 and sometimes 1."""
    outputs = random_outputs(name, 4, 1, 6, 6, dtype=torch.bfloat16)
    drawn = CASES[name].sample(outputs, seeded(1))
    assert drawn.dtype == torch.bfloat16
    assert drawn.equal(CASES[name].sample(outputs.float(), seeded(1)).bfloat16())
