"""The terms of the bound: against closed forms on Gaussian data, a plain float64 reference, and numerical integration."""

import math

import diffusers
import mpmath
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.models.unets.unet_2d import UNet2DOutput
from scipy.special import ndtr
from torch.distributions import Normal, kl_divergence

from hfgen.process import PARAMETERIZATIONS, GaussianProcess, OutputShapeError, ReverseProcess
from hfgen.schedulers import LinearDDPMScheduler, reverse_process

C2 = 0.6**2  # variance of the Gaussian data
SCHEDULES = [
    (LinearDDPMScheduler, {"num_train_timesteps": 100}),
    (LinearDDPMScheduler, {}),
    (DDPMScheduler, {"num_train_timesteps": 10, "beta_schedule": "squaredcos_cap_v2"}),
    (DDPMScheduler, {"num_train_timesteps": 100, "beta_schedule": "scaled_linear"}),
    (DDPMScheduler, {"num_train_timesteps": 1000}),
    (DDPMScheduler, {"num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2"}),
]
PREDICTIONS = ["epsilon", "sample", "v_prediction", "mu"]
IDS = [f"{cls.__name__}-{'-'.join(str(v) for v in kw.values())}" for cls, kw in SCHEDULES]
schedules = pytest.mark.parametrize(("cls", "config"), SCHEDULES, ids=IDS)


def process_of(cls, config, **more):
    return reverse_process(cls(**config, **more))


def made(betas, prediction_type="epsilon", variance_type="fixed_small"):
    return ReverseProcess(
        forward=GaussianProcess.from_betas(betas),
        parameterization=PARAMETERIZATIONS[prediction_type],
        variance_type=variance_type,
    )


def column(values, like):
    return values.view(-1, *[1] * (like.ndim - 1))


def as_model(function):
    return lambda x_t, timesteps: UNet2DOutput(sample=function(x_t, timesteps))


def ideal(process):
    """E[target | x_t] for x_0 ~ N(0, C2 I): with C2 alpha_bar + 1 - alpha_bar the variance of x_t, all is linear in x_t."""

    def predict(x_t, timesteps):
        alpha_bar = column(process.forward.alpha_bar[timesteps], x_t)
        signal, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        x_0 = signal * C2 / (alpha_bar * C2 + 1 - alpha_bar) * x_t
        eps = sigma / (alpha_bar * C2 + 1 - alpha_bar) * x_t
        beta, before = (column(v[timesteps], x_t) for v in (process.forward.beta, process.forward.alpha_bar_prev))
        mu = (before.sqrt() * beta * x_0 + (1 - beta).sqrt() * (1 - before) * x_t) / (1 - alpha_bar)
        return {"sample": x_0, "epsilon": eps, "v_prediction": signal * eps - sigma * x_0, "mu": mu}[
            process.parameterization.prediction_type
        ]

    return as_model(predict)


def expected_terms(process, model):
    """E L_{t-1} per pixel of every t >= 2 over Gaussian data and noise: L is a square of a linear function of (x_0, eps) and
    a constant, so that its mean over the four corners (+-c, +-1) is the mean over the two normals."""
    corners = torch.tensor([[c, e] for c in (-1.0, 1.0) for e in (-1.0, 1.0)], dtype=torch.float64)
    x_0, noise = (corners * torch.tensor([C2**0.5, 1.0], dtype=torch.float64)).unbind(1)
    timesteps = torch.arange(1, process.num_steps)
    rows = [v.repeat(len(timesteps)).view(-1, 1, 1, 1) for v in (x_0, noise)]
    return process.terms(model, *rows, timesteps.repeat_interleave(4)).view(-1, 4).mean(1)


def joint_variances(beta):
    """Var(x_{t-1} | x_t, x_0) and Var(x_{t-1} | x_t) for t >= 2, from the chain's covariances alone: with a = sqrt(alpha),
    x_t = a x_{t-1} + sqrt(beta) noise, and the variance V_{t-1} of x_{t-1}, given x_0 or not, precisions add."""
    given, whole = 0.0, C2
    found = []
    for b in beta.tolist():
        if given:
            found.append([1 / (1 / v + (1 - b) / b) for v in (given, whole)])
        given, whole = (1 - b) * given + b, (1 - b) * whole + b
    return torch.tensor(found, dtype=torch.float64).unbind(1)


@schedules
@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_gaussian_data_and_the_ideal_predictor(cls, config, variance_type, prediction_type):
    """E KL(q(x_{t-1}|x_t, x_0) || N(E[x_{t-1}|x_t], s2)) = 1/2 [ (v + u) / s2 - 1 - log(v / s2) ], v = Var(x_{t-1}|x_t, x_0),
    and u = Var(x_{t-1}|x_t) - v the variance of the posterior's mean; float64 but for the cancellation in u."""
    process = process_of(cls, config, variance_type=variance_type, prediction_type=prediction_type)
    given, whole = joint_variances(process.forward.beta)
    s2 = given if variance_type == "fixed_small" else process.forward.beta[1:]
    expected = (whole / s2 - 1 - (given / s2).log()) / 2
    found = expected_terms(process, ideal(process))
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-13)


@schedules
def test_coefficients_are_those_of_the_chain(cls, config):
    """alpha_bar by the recursion of Var(x_t | x_0), beta_tilde by adding precisions."""
    process = process_of(cls, config)
    assert process.forward.beta.dtype == torch.float64
    signal, variance = [], []
    for b in process.forward.beta.tolist():
        signal.append((signal[-1] if signal else 1.0) * math.sqrt(1 - b))
        variance.append((1 - b) * (variance[-1] if variance else 0.0) + b)
    close = {"rtol": 1e-10, "atol": 1e-14}
    torch.testing.assert_close(process.forward.alpha_bar.sqrt(), torch.tensor(signal).double(), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(1 - process.forward.alpha_bar, torch.tensor(variance, dtype=torch.float64), **close)
    torch.testing.assert_close(process.forward.beta_tilde[1:], joint_variances(process.forward.beta)[0], **close)
    assert process.forward.alpha_bar_prev[0] == 1
    assert process.forward.beta_tilde[0] == 0
    assert torch.equal(process.forward.alpha_bar_prev[1:], process.forward.alpha_bar[:-1])
    torch.testing.assert_close(process.forward.snr, process.forward.alpha_bar / (1 - process.forward.alpha_bar))


def test_posterior_is_that_of_the_scheduler_and_of_bayes():
    """The mean that `terms` compares is linear in x_0 and x_t; its part of x_0 is all that differs between q and p."""
    scheduler = LinearDDPMScheduler(50)
    process = reverse_process(scheduler)
    x_0, x_t = torch.randn(2, 1, 1, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    grid = torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    for i in (1, 2, 25, 49):
        mean, variance = scheduler.posterior(x_0, x_t, torch.tensor([i]))
        before = process.forward.alpha_bar_prev[i]
        prior = Normal(before.sqrt() * x_0.item(), (1 - before).sqrt()).log_prob(grid)
        step = Normal(process.forward.alpha[i].sqrt() * grid, process.forward.beta[i].sqrt()).log_prob(x_t.squeeze())
        weight = torch.softmax(prior + step, 0)
        by_bayes = (weight * grid).sum()
        # trapezoids of a smooth function that vanishes at both ends
        torch.testing.assert_close(mean.squeeze(), by_bayes, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(
            process.forward.beta_tilde[i], (weight * (grid - by_bayes).square()).sum(), rtol=1e-9, atol=0
        )
        torch.testing.assert_close(process.forward.beta_tilde[i], variance.squeeze())


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
def test_one_missed_pixel_costs_the_squared_distance_of_the_means(variance_type):
    """A prediction off by `miss` in x_0 moves the posterior's mean by what the scheduler says."""
    scheduler = LinearDDPMScheduler(60, prediction_type="sample", variance_type=variance_type)
    process = reverse_process(scheduler)
    timesteps = torch.arange(1, 60)
    x_0 = torch.zeros(59, 1, 2, 2, dtype=torch.float64)
    missed = x_0.clone()
    missed[:, 0, 1, 1] = 0.3
    noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found, best = (process.terms(as_model(lambda *_, x=x: x), x_0, noise, timesteps) for x in (missed, x_0))
    x_t = process.forward.add_noise(x_0, noise, timesteps)
    mean, variance = scheduler.posterior(x_0, x_t, timesteps)
    distance = (scheduler.posterior(missed, x_t, timesteps)[0] - mean).square().flatten(1).sum(1)
    s2 = process.forward.beta[1:] if variance_type == "fixed_large" else variance.flatten()
    torch.testing.assert_close(found - best, distance / (2 * s2), rtol=1e-9, atol=1e-15)
    constant = kl_divergence(Normal(0.0, variance.flatten().sqrt()), Normal(0.0, s2.sqrt()))
    torch.testing.assert_close(best, 4 * constant, rtol=1e-9, atol=1e-12)


@schedules
def test_the_snr_form(cls, config):
    """Kingma et al. 2021, equation 13, for variance beta_tilde: L_{t-1} = (SNR(t-1) - SNR(t)) / 2 ||x_0 - x_0_hat||^2."""
    process = process_of(cls, config)
    timesteps = torch.arange(1, process.num_steps)
    generator = torch.Generator().manual_seed(0)
    x_0, noise = torch.randn(2, len(timesteps), 1, 2, 3, generator=generator, dtype=torch.float64)
    model = as_model(lambda x_t, t: (x_t + 0.1).tanh() * (1 + t.view(-1, 1, 1, 1) / 100).log())
    x_t = process.forward.add_noise(x_0, noise, timesteps)
    signal, sigma = (
        column(v[timesteps], x_t).sqrt() for v in (process.forward.alpha_bar, 1 - process.forward.alpha_bar)
    )
    x_0_hat = (x_t - sigma * model(x_t, timesteps).sample) / signal
    expected = process.forward.snr_weight() * (x_0 - x_0_hat).square().flatten(1).sum(1)
    # SNR(t-1) - SNR(t) and x_0_hat at small alpha_bar lose up to six digits
    torch.testing.assert_close(process.terms(model, x_0, noise, timesteps), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
@schedules
def test_all_parametrisations_of_one_model_have_the_same_terms(cls, config, variance_type):
    values = {}
    generator = torch.Generator().manual_seed(1)
    steps = process_of(cls, config).num_steps
    timesteps = torch.arange(steps)
    noise = torch.randn(steps, 1, 2, 2, generator=generator, dtype=torch.float64)
    x_0 = torch.randint(0, 256, noise.shape, generator=generator).double() / 127.5 - 1

    for prediction_type in PREDICTIONS:
        process = process_of(cls, config, variance_type=variance_type, prediction_type=prediction_type)
        values[prediction_type] = process.terms(ideal(process), x_0, noise, timesteps)
    for other in PREDICTIONS[1:]:
        torch.testing.assert_close(values[other], values["epsilon"], rtol=1e-7, atol=1e-10)


def with_variance(process, value):
    """The ideal mean, and `value` in the channels of the variance."""
    mean = ideal(process)

    def predict(x_t, timesteps):
        extra = value(timesteps) if callable(value) else torch.as_tensor(value, dtype=torch.float64).expand(len(x_t))
        return torch.cat([mean(x_t, timesteps).sample, column(extra, x_t).expand_as(x_t)], 1)

    return as_model(predict)


def some_images(count, shape=(1, 2, 2), seed=0):
    generator = torch.Generator().manual_seed(seed)
    x_0 = torch.randint(0, 256, (count, *shape), generator=generator).double() / 127.5 - 1
    return x_0, torch.randn(x_0.shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_learned_range_ends_in_the_fixed_variances(channels):
    x_0, noise = some_images(40, (channels, 2, 2))
    timesteps = torch.arange(40)
    learned = process_of(DDPMScheduler, {"num_train_timesteps": 40}, variance_type="learned_range")
    for value, fixed in ((-1.0, "fixed_small"), (1.0, "fixed_large")):
        process = process_of(DDPMScheduler, {"num_train_timesteps": 40}, variance_type=fixed)
        found = learned.terms(with_variance(learned, value), x_0, noise, timesteps)
        expected = process.terms(ideal(process), x_0, noise, timesteps)
        torch.testing.assert_close(found[1:], expected[1:], rtol=1e-10, atol=1e-12)
    low = learned.terms(with_variance(learned, -1.0), x_0, noise, timesteps)
    small = process_of(DDPMScheduler, {"num_train_timesteps": 40})
    assert low[0].item() == pytest.approx(small.terms(ideal(small), x_0[:1], noise[:1], timesteps[:1]).item())


def test_a_learned_variance_is_taken_as_it_is():
    x_0, noise = some_images(40)
    timesteps = torch.arange(40)
    config = {"num_train_timesteps": 40, "variance_type": "learned"}
    learned, fixed = process_of(DDPMScheduler, config), process_of(DDPMScheduler, {"num_train_timesteps": 40})
    model = with_variance(learned, lambda t: fixed.forward.beta_tilde[t.clamp(min=1)])
    torch.testing.assert_close(
        learned.terms(model, x_0, noise, timesteps), fixed.terms(ideal(fixed), x_0, noise, timesteps)
    )


def test_a_learned_variance_of_each_pixel_counts_for_that_pixel():
    process = process_of(DDPMScheduler, {"num_train_timesteps": 40}, variance_type="learned_range")
    x_0, noise = some_images(39, (1, 1, 2))
    timesteps = torch.arange(1, 40)
    mixed = as_model(
        lambda x_t, t: torch.cat([ideal(process)(x_t, t).sample, torch.tensor([-1.0, 1.0]).expand_as(x_t).double()], 1)
    )
    parts = [
        process.terms(with_variance(process, w), x_0[..., i : i + 1], noise[..., i : i + 1], timesteps)
        for i, w in enumerate((-1.0, 1.0))
    ]
    torch.testing.assert_close(process.terms(mixed, x_0, noise, timesteps), sum(parts))


def reference_term(scheduler, unet, x_0, noise, i):
    """L_{t-1}, or at i = 0 L_0, of one image from the definitions, with loops for cumulative products."""
    beta = scheduler.betas.double()
    alpha_bar = math.prod(1 - b for b in beta[: i + 1].tolist())
    before = math.prod(1 - b for b in beta[:i].tolist())
    x_t = alpha_bar**0.5 * x_0 + (1 - alpha_bar) ** 0.5 * noise
    with torch.no_grad():
        output = unet(x_t, torch.tensor([i])).sample
    kind = scheduler.config.prediction_type
    second = output[:, x_0.shape[1] :]
    output = output[:, : x_0.shape[1]]
    if kind == "epsilon":
        x_0_hat = (x_t - (1 - alpha_bar) ** 0.5 * output) / alpha_bar**0.5
    elif kind == "sample":
        x_0_hat = output
    else:
        x_0_hat = alpha_bar**0.5 * x_t - (1 - alpha_bar) ** 0.5 * output

    def mean(x):
        of_x_0 = before**0.5 * beta[i] / (1 - alpha_bar)
        return of_x_0 * x + (1 - beta[i]) ** 0.5 * (1 - before) / (1 - alpha_bar) * x_t

    predicted = output if kind == "mu" else mean(x_0_hat)

    first = max(i, 1)
    up_to = [math.prod(1 - b for b in beta[:n].tolist()) for n in (first, first + 1)]
    beta_tilde = (1 - up_to[0]) / (1 - up_to[1]) * beta[first]
    s2 = {
        "fixed_small": lambda: beta_tilde.expand_as(x_0),
        "fixed_large": lambda: (beta[i] if i > 0 else beta_tilde).expand_as(x_0),
        "learned_range": lambda: beta[i] ** ((second + 1) / 2) * beta_tilde ** ((1 - second) / 2),
        "learned": lambda: second.clamp(min=1e-20),
    }[scheduler.config.variance_type]()
    if i > 0:
        return kl_divergence(Normal(mean(x_0), beta_tilde.sqrt()), Normal(predicted, s2.sqrt())).sum().item()
    return sum(pixel_nll(*values) for values in zip(x_0.flatten(), predicted.flatten(), s2.flatten(), strict=True))


def pixel_nll(x, mean, s2):
    """In 50 digits: a random network is many standard deviations off."""
    with mpmath.workdps(50):
        x, mean, std = mpmath.mpf(x.item()), mpmath.mpf(mean.item()), mpmath.sqrt(s2.item())
        half = mpmath.mpf(1) / 255
        upper = mpmath.inf if x > 0.999 else (x + half - mean) / std
        lower = -mpmath.inf if x < -0.999 else (x - half - mean) / std
        if lower > 0:
            lower, upper = -upper, -lower
        return float(-mpmath.log(mpmath.ncdf(upper) - mpmath.ncdf(lower)))


def random_unet(in_channels=1, out_channels=1):
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=4,
        in_channels=in_channels,
        out_channels=out_channels,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
    )
    return unet.double().eval()


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large", "learned_range", "learned"])
@pytest.mark.parametrize("prediction_type", PREDICTIONS)
def test_a_random_unet_against_the_definitions(prediction_type, variance_type):
    learned = variance_type.startswith("learned")
    unet = random_unet(out_channels=2 if learned else 1)
    scheduler = DDPMScheduler(
        12, 0.01, 0.4, "scaled_linear", prediction_type=prediction_type, variance_type=variance_type
    )
    x_0, noise = some_images(12, (1, 4, 4))
    x_0[0, 0, 0, :2] = torch.tensor([-1.0, 1.0])
    process = reverse_process(scheduler)
    with torch.no_grad():
        found = process.terms(unet, x_0, noise, torch.arange(12))
    expected = [reference_term(scheduler, unet, x_0[i : i + 1], noise[i : i + 1], i) for i in range(12)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_colours_are_summed_over():
    unet = random_unet(3, 3)
    x_0, noise = some_images(5, (3, 4, 4))
    scheduler = DDPMScheduler(5, 0.01, 0.4)
    process = reverse_process(scheduler)
    with torch.no_grad():
        found = process.terms(unet, x_0, noise, torch.arange(5))
    expected = [reference_term(scheduler, unet, x_0[i : i + 1], noise[i : i + 1], i) for i in range(5)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)


BETAS = [0.15, 0.4, 0.8]
NODES = 70


def one_pixel_process(variance_type):
    return made(torch.tensor(BETAS, dtype=torch.float64), "epsilon", variance_type)


def crooked(x_t, timesteps):
    """A predictor that nothing derives: smooth, not linear, another at each t."""
    t = column(timesteps.double(), x_t)
    return 0.8 * torch.sin(0.7 * x_t + 0.3 * t) + 0.2 * x_t - 0.1


def gauss_hermite():
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    return torch.from_numpy(nodes), torch.from_numpy(weights / weights.sum())


def reverse_step(process, x_t, i):
    """Mean and deviation of p(x_{t-1} | x_t) by Ho et al.'s equation 11."""
    eps = crooked(x_t, torch.full((len(x_t),), i))
    mean = (x_t - process.forward.beta[i] / (1 - process.forward.alpha_bar[i]).sqrt() * eps) / process.forward.alpha[
        i
    ].sqrt()
    large = process.variance_type == "fixed_large" and i > 0
    return mean, (process.forward.beta if large else process.forward.beta_tilde)[max(i, 1)].sqrt()


def decoder_nll(value, mean, std):
    """As a difference of two lower tails, which float64 has down to 37 deviations."""
    x = value / 127.5 - 1
    low = (x - 1 / 255 - mean) / std if value > 0 else torch.full_like(mean, -math.inf)
    high = (x + 1 / 255 - mean) / std if value < 255 else torch.full_like(mean, math.inf)
    low, high = torch.where(low > 0, -high, low), torch.where(low > 0, -low, high)
    # torch.special.ndtr is 0 from 8 deviations on
    return -(torch.from_numpy(ndtr(high.numpy()) - ndtr(low.numpy()))).log()


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("value", [0, 100, 255])
def test_the_whole_bound_by_numerical_integration(variance_type, value):
    """One pixel, three steps: the terms, each integrated over its one noise, add up to E_q over the path x_1, x_2, x_3 of
    log q(x_1..x_3 | x_0) / p(x_0..x_3), which lies above -log p(x_0), integrated over the paths of the reverse chain."""
    process = one_pixel_process(variance_type)
    nodes, weights = gauss_hermite()
    x_0 = torch.full((NODES, 1, 1, 1), value / 127.5 - 1, dtype=torch.float64)
    terms = [
        (weights * process.terms(as_model(crooked), x_0, nodes.view(-1, 1, 1, 1), torch.full((NODES,), i))).sum()
        for i in range(3)
    ]
    bound = sum(terms) + process.forward.prior_kl(x_0[:1]).squeeze()

    path, weight, log_q = [x_0[:1].flatten()], torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for beta in BETAS:
        last, weight = path[-1].repeat_interleave(NODES), weight.repeat_interleave(NODES)
        path = [x.repeat_interleave(NODES) for x in path]
        mean, noise = math.sqrt(1 - beta) * last, nodes.repeat(len(last) // NODES)
        path.append(mean + math.sqrt(beta) * noise)
        log_q = log_q.repeat_interleave(NODES) + Normal(mean, math.sqrt(beta)).log_prob(path[-1])
        weight = weight * weights.repeat(len(last) // NODES)
    log_p = Normal(0.0, 1.0).log_prob(path[3])
    for i in (2, 1):
        log_p = log_p + Normal(*reverse_step(process, path[i + 1], i)).log_prob(path[i])
    # at the far nodes the mass is 0 in float64, and so is their weight
    inside = weight > 1e-18
    nll = decoder_nll(value, *reverse_step(process, path[1], 0))
    negative_elbo = (weight * (log_q - log_p + nll))[inside].sum()
    torch.testing.assert_close(bound, negative_elbo, rtol=1e-7, atol=0)

    grid = torch.linspace(-9, 9, 1201, dtype=torch.float64)
    width = grid[1] - grid[0]
    density = decoder_nll(value, *reverse_step(process, grid, 0)).neg().exp()
    for i in (1, 2):
        mean, std = reverse_step(process, grid, i)
        density = (Normal(mean[:, None], std).log_prob(grid).exp() * density).sum(1) * width
    nll = -(Normal(0.0, 1.0).log_prob(grid).exp() * density).sum().mul(width).log()
    assert bound > nll + 0.01


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
def test_the_generative_chain_of_the_integration_is_a_distribution(variance_type):
    """What the decoder of the test above gives all 256 values sums to 1, wherever x_1 is."""
    process = one_pixel_process(variance_type)
    x_1 = torch.linspace(-4, 4, 33, dtype=torch.float64)
    mean, std = reverse_step(process, x_1, 0)
    total = sum(decoder_nll(value, mean, std).neg().exp() for value in range(256))
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-10, atol=0)


@schedules
def test_the_prior_term(cls, config):
    process = process_of(cls, config)
    x_0 = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    alpha_bar = process.forward.alpha_bar[-1]
    q = Normal(alpha_bar.sqrt() * x_0, (1 - alpha_bar).sqrt())
    expected = kl_divergence(q, Normal(torch.zeros(()).double(), 1.0)).flatten(1).sum(1)
    # torch's form cancels to 1e-16 for each of the 16 pixels
    torch.testing.assert_close(process.forward.prior_kl(x_0), expected, rtol=1e-9, atol=1e-13)


def test_clipping_is_no_part_of_the_bound():
    x_0, noise = some_images(9)
    timesteps = torch.arange(1, 10)
    far = as_model(lambda x_t, t: 5 * x_t)
    clipped, free = (process_of(DDPMScheduler, {"num_train_timesteps": 10}, clip_sample=c) for c in (True, False))
    assert torch.equal(clipped.terms(far, x_0, noise, timesteps), free.terms(far, x_0, noise, timesteps))


@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler", "EulerDiscreteScheduler"])
@pytest.mark.parametrize("prediction_type", PREDICTIONS[1:])
def test_zero_terminal_snr(name, prediction_type):
    """x_T is noise alone: L_T is 0, and at t = T the ideal prediction of x_0 is its mean, 0."""
    config = {"num_train_timesteps": 20, "rescale_betas_zero_snr": True, "prediction_type": prediction_type}
    process = process_of(getattr(diffusers, name), config)
    assert process.forward.alpha_bar[-1] == 0
    x_0, noise = some_images(20)
    assert torch.equal(process.forward.prior_kl(x_0), torch.zeros(20, dtype=torch.float64))
    terms = process.terms(ideal(process), x_0, noise, torch.arange(20))
    assert terms.isfinite().all()
    expected = process.forward.snr[-2] / 2 * x_0[-1].square().sum()
    torch.testing.assert_close(terms[-1], expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize(("variance_type", "channels"), [("fixed_small", 2), ("learned_range", 1), ("learned", 3)])
def test_an_output_of_another_shape_is_refused(variance_type, channels):
    """Two channels of a network with a learned variance would broadcast against one of a grey image."""
    process = process_of(DDPMScheduler, {"num_train_timesteps": 10}, variance_type=variance_type)
    x_0, noise = some_images(2)
    model = as_model(lambda x_t, t: x_t.expand(-1, channels, -1, -1))
    needed = 1 if variance_type == "fixed_small" else 2
    with pytest.raises(OutputShapeError, match=f"puts out {channels} channels .*'{variance_type}' needs {needed}: set"):
        process.terms(model, x_0, noise, torch.tensor([0, 1]))


def test_a_chain_of_one_step():
    process = made(torch.tensor([0.3]), "sample")
    x_0, noise = some_images(1)
    term = process.terms(as_model(lambda x_t, t: x_0), x_0, noise, torch.tensor([0]))
    expected = sum(pixel_nll(x, x, torch.tensor(0.3)) for x in x_0.flatten())
    assert term.item() == pytest.approx(expected, rel=1e-6)


def test_noise_is_added_in_the_dtype_of_the_images():
    process = process_of(DDPMScheduler, {"num_train_timesteps": 10})
    x_0, noise = some_images(10)
    timesteps = torch.arange(10)
    wide = process.forward.add_noise(x_0, noise, timesteps)
    narrow = process.forward.add_noise(x_0.float(), noise.float(), timesteps)
    assert (wide.dtype, narrow.dtype) == (torch.float64, torch.float32)
    stock = DDPMScheduler(10).add_noise(x_0.float(), noise.float(), timesteps)
    torch.testing.assert_close(narrow, stock, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(wide, stock.double(), rtol=1e-5, atol=1e-5)
