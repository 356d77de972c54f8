"""The training losses against the bound's own terms, each other, and plain formulas."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from hfgen.objectives import DiffusionLoss, UniformTimes, weights
from hfgen.process import PARAMETERIZATIONS, GaussianProcess, ReverseProcess
from hfgen.schedulers import LinearDDPMScheduler, reverse_process

STEPS = 40
PREDICTIONS = ["epsilon", "sample", "v_prediction", "mu"]
SHAPE = (2, 4, 4)
D = 32
BETAS = {
    "linear": LinearDDPMScheduler(STEPS).betas,
    "cosine": DDPMScheduler(STEPS, beta_schedule="squaredcos_cap_v2").betas.double(),
}
schedules = pytest.mark.parametrize("schedule", BETAS)
predictions = pytest.mark.parametrize("prediction", PREDICTIONS)


def process_of(schedule, prediction="epsilon", variance="fixed_small"):
    return made(BETAS[schedule], prediction, variance)


def made(betas, prediction, variance):
    return ReverseProcess(
        forward=GaussianProcess.from_betas(betas),
        parameterization=PARAMETERIZATIONS[prediction],
        variance_type=variance,
    )


def drawn(seed=0, dtype=torch.float64, scale=1.0):
    """Every t once: 8-bit images, noise, images as a network might guess them, and a second half for the variance."""
    generator = torch.Generator().manual_seed(seed)
    x_0 = torch.randint(0, 256, (STEPS, *SHAPE), generator=generator) / 127.5 - 1
    noise, guess, extra = (torch.randn(STEPS, *SHAPE, generator=generator, dtype=torch.float64) for _ in range(3))
    return x_0.to(dtype), noise.to(dtype), (scale * guess).to(dtype), extra.to(dtype), torch.arange(STEPS)


def column(values):
    return values.view(-1, 1, 1, 1)


def as_prediction(process, x_0_hat, x_t):
    """The prediction that says x_0_hat, for x_t of every t, by the definitions of the four."""
    signal, sigma = column(process.forward.alpha_bar.sqrt()), column((1 - process.forward.alpha_bar).sqrt())
    epsilon = (x_t - signal * x_0_hat) / sigma
    beta, before, alpha_bar = (
        column(v) for v in (process.forward.beta, process.forward.alpha_bar_prev, process.forward.alpha_bar)
    )
    mu = (before.sqrt() * beta * x_0_hat + (1 - beta).sqrt() * (1 - before) * x_t) / (1 - alpha_bar)
    return {
        "epsilon": epsilon,
        "sample": x_0_hat,
        "v_prediction": signal * epsilon - sigma * x_0_hat,
        "mu": mu,
    }[process.parameterization.prediction_type]


def simple_loss(num_steps):
    """L_simple, algorithm 1 of Ho et al. 2020: what a training has by default."""
    scheduler = LinearDDPMScheduler(num_steps)
    process = reverse_process(scheduler)
    return DiffusionLoss(process, weights.simple(process)), scheduler


def test_the_defaults_are_l_simple_at_the_schedulers_x_t():
    x_0, noise, output, _, timesteps = drawn(dtype=torch.float32)
    loss, scheduler = simple_loss(STEPS)
    expected = (noise - output).square().mean((1, 2, 3))
    assert torch.allclose(loss(output, x_0, noise, timesteps), expected, rtol=1e-6)
    assert torch.equal(loss.add_noise(x_0, noise, timesteps), scheduler.add_noise(x_0, noise, timesteps))


DATA_STD = 0.5


def alpha_bar_in_numpy(num_steps):
    return np.cumprod(1 - np.linspace(0.1 / num_steps, 20 / num_steps, num_steps))


def least_loss(num_steps):
    """Per step, the variance of eps given x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps, x_0 ~ N(0, s^2).

    eps and x_t are jointly Gaussian: 1 - cov^2 / var(x_t), with cov = sqrt(1 - alpha_bar).
    """
    alpha_bar = alpha_bar_in_numpy(num_steps)
    return 1 - (1 - alpha_bar) / (alpha_bar * DATA_STD**2 + 1 - alpha_bar)


def ideal_epsilon(x_t, timesteps, num_steps):
    """E[eps | x_t] for x_0 ~ N(0, s^2): linear in x_t."""
    alpha_bar = alpha_bar_in_numpy(num_steps)
    slope = np.sqrt(1 - alpha_bar) / (alpha_bar * DATA_STD**2 + 1 - alpha_bar)
    return torch.from_numpy(slope).float()[timesteps][:, None, None, None] * x_t


def losses_of_the_ideal(timesteps, seed, num_steps=100):
    generator = torch.Generator().manual_seed(seed)
    x_0 = DATA_STD * torch.randn(len(timesteps), 3, 8, 8, generator=generator)
    noise = torch.randn(x_0.shape, generator=generator)
    loss, _ = simple_loss(num_steps)
    output = ideal_epsilon(loss.add_noise(x_0, noise, timesteps), timesteps, num_steps)
    return loss(output, x_0, noise, timesteps)


@pytest.mark.parametrize("timestep", [0, 1, 10, 50, 98, 99])
def test_ideal_predictor_has_the_least_loss_at_each_step(timestep):
    losses = losses_of_the_ideal(torch.full((500,), timestep), seed=timestep)
    assert losses.shape == (500,)
    least = least_loss(100)[timestep]
    # 96,000 squares of Gaussian residuals, each with a standard deviation of sqrt(2) times its mean; 5 standard errors
    assert abs(losses.mean().item() - least) < 5 * least * np.sqrt(2 / (500 * 192))


def test_expected_loss_over_all_steps():
    uniform = (torch.arange(1000) + 0.5) / 1000
    timesteps, _ = UniformTimes(100).sample(uniform, uniform)
    losses = losses_of_the_ideal(timesteps, seed=0)
    # as above; at each step 10 images of 192 pixels, so the mean's variance is that of the steps' variances
    standard_error = np.sqrt(2 * np.square(least_loss(100)).mean() / (1000 * 192))
    assert abs(losses.mean().item() - least_loss(100).mean()) < 5 * standard_error


def test_loss_is_the_mean_square_over_the_pixels_of_each_image():
    generator = torch.Generator().manual_seed(0)
    x_0, noise = torch.randn(2, 2, 3, 8, 8, generator=generator)
    loss, _ = simple_loss(100)
    losses = loss(torch.zeros_like(noise, dtype=torch.bfloat16), x_0, noise, torch.tensor([3, 70]))
    assert losses.dtype == torch.float32
    # float32 sums of 192 squares, weighted by a float32 1
    np.testing.assert_allclose(losses, np.square(noise.double().numpy()).mean(axis=(1, 2, 3)), rtol=1e-5)


def test_it_keeps_no_state_and_its_tables_in_float64():
    loss, _ = simple_loss(STEPS)
    assert not loss.state_dict()
    assert not list(loss.parameters())
    assert loss.weight.dtype == torch.float32
    moved = loss.to("meta")
    assert moved.weight.device.type == moved.process.forward.alpha_bar.device.type == "meta"
    assert moved.process.forward.alpha_bar.dtype == torch.float64


@schedules
@predictions
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_vlb_weights_give_the_terms_of_the_bound_whatever_is_predicted(schedule, prediction, variance):
    x_0, noise, guess, _, timesteps = drawn()
    process = process_of(schedule, prediction, variance)
    output = as_prediction(process, guess, process.forward.add_noise(x_0, noise, timesteps))
    found = DiffusionLoss(process, weights.vlb(process))(output, x_0, noise, timesteps)
    terms = STEPS / D * process.terms_of_output(output, x_0, noise, timesteps)
    ratio = process.forward.beta_tilde / process.forward.beta if variance == "fixed_large" else torch.ones(STEPS)
    constant = STEPS / 2 * (ratio - 1 - ratio.log())
    # weights are kept in float32
    assert torch.allclose(found[1:], (terms - constant)[1:], rtol=1e-5)
    # at t = 1 it is the Gaussian density: ||x_0 - x_0_hat||^2 / (2 sigma^2), with the sigma of t = 2
    sigma2 = process.forward.beta_tilde[1].item()
    assert found[0].item() == pytest.approx(STEPS * ((x_0 - guess)[0] ** 2).mean().item() / (2 * sigma2), rel=1e-5)


@schedules
@predictions
def test_snr_weights_are_l_simple_whatever_is_predicted(schedule, prediction):
    x_0, noise, guess, _, timesteps = drawn()
    process = process_of(schedule, prediction)
    x_t = process.forward.add_noise(x_0, noise, timesteps)
    epsilon = as_prediction(process_of(schedule), guess, x_t)
    found = DiffusionLoss(process, weights.snr(process))(as_prediction(process, guess, x_t), x_0, noise, timesteps)
    assert torch.allclose(found, (epsilon - noise).square().mean((1, 2, 3)), rtol=1e-5)


@schedules
@predictions
@pytest.mark.parametrize("weighting", ["truncated_snr", "min_snr"])
def test_weights_are_of_the_error_of_x_0(schedule, prediction, weighting):
    x_0, noise, guess, _, timesteps = drawn()
    process = process_of(schedule, prediction)
    output = as_prediction(process, guess, process.forward.add_noise(x_0, noise, timesteps))
    weight = weights.WEIGHTS[weighting](process)
    found = DiffusionLoss(process, weight)(output, x_0, noise, timesteps)
    assert torch.allclose(found, weight * (x_0 - guess).square().mean((1, 2, 3)), rtol=1e-5)


@schedules
@predictions
def test_simple_weights_are_1_on_the_prediction(schedule, prediction):
    x_0, noise, output, _, timesteps = drawn()
    process = process_of(schedule, prediction)
    target = as_prediction(process, x_0, process.forward.add_noise(x_0, noise, timesteps))
    found = DiffusionLoss(process, weights.simple(process))(output, x_0, noise, timesteps)
    assert torch.allclose(found, (output - target).square().mean((1, 2, 3)), rtol=1e-5)


@schedules
@predictions
def test_hybrid_trains_the_mean_by_the_squared_error_and_the_variance_by_the_bound(schedule, prediction):
    x_0, noise, mean, extra, timesteps = drawn()
    fixed, learned = process_of(schedule, prediction), process_of(schedule, prediction, "learned_range")
    weight = weights.simple(fixed)
    output = torch.cat([mean, extra], dim=1).requires_grad_()
    loss = DiffusionLoss(learned, weight, "hybrid")(output, x_0, noise, timesteps)
    (gradient,) = torch.autograd.grad(loss.sum(), output)
    squared = DiffusionLoss(fixed, weight)(mean.requires_grad_(), x_0, noise, timesteps)
    (of_mean,) = torch.autograd.grad(squared.sum(), mean)
    terms = learned.terms_of_output(output, x_0, noise, timesteps)
    (of_bound,) = torch.autograd.grad(terms.sum(), output)
    assert torch.allclose(loss, squared + 0.001 * STEPS / D * terms)
    assert torch.equal(gradient[:, :2], of_mean)
    assert torch.allclose(gradient[:, 2:], 0.001 * STEPS / D * of_bound[:, 2:])
    assert of_bound[:, 2:].abs().amin((1, 2, 3)).gt(0).all()


@schedules
@predictions
def test_vlb_objective_is_the_bound(schedule, prediction):
    x_0, noise, mean, extra, timesteps = drawn()
    process = process_of(schedule, prediction, "learned_range")
    loss = DiffusionLoss(process, weights.simple(process), "vlb")
    output = torch.cat([mean, extra], dim=1)
    found = loss(output, x_0, noise, timesteps)
    assert torch.allclose(found, STEPS / D * process.terms_of_output(output, x_0, noise, timesteps))
    # and so the mean over t is sum L_{t-1} / D, as the bound itself computes it
    model = lambda *_: SimpleNamespace(sample=output)  # noqa: E731
    assert found.mean().item() == pytest.approx(process.terms(model, x_0, noise, timesteps).sum().item() / D)


@schedules
@predictions
@pytest.mark.parametrize("share", [-1.0, 1.0])
def test_learned_range_at_its_ends_is_the_fixed_variances(schedule, prediction, share):
    x_0, noise, mean, _, timesteps = drawn()
    learned = process_of(schedule, prediction, "learned_range")
    fixed = replace(learned, variance_type="fixed_large" if share == 1 else "fixed_small")
    output = torch.cat([mean, torch.full_like(mean, share)], dim=1)
    found = DiffusionLoss(learned, weights.simple(learned), "vlb")(output, x_0, noise, timesteps)
    expected = STEPS / D * fixed.terms_of_output(mean, x_0, noise, timesteps)
    # the upper end at t = 1 is beta_1, which is smaller than the variance that the fixed ones take there
    assert torch.allclose(found[1:], expected[1:], rtol=1e-9)
    if share == -1:
        assert torch.allclose(found[0], expected[0])


@schedules
@predictions
@pytest.mark.parametrize("objective", ["hybrid", "vlb"])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e3])
def test_gradients_are_finite_in_float32_at_every_step(schedule, prediction, objective, scale):
    x_0, noise, mean, extra, timesteps = drawn(dtype=torch.float32, scale=scale)
    process = process_of(schedule, prediction, "learned_range")
    for start in (extra, 10 * extra):
        output = torch.cat([mean, start], dim=1).requires_grad_()
        loss = DiffusionLoss(process, weights.simple(process), objective)(output, x_0, noise, timesteps)
        (gradient,) = torch.autograd.grad(loss.sum(), output)
        assert loss.dtype == torch.float32
        assert loss.isfinite().all()
        assert gradient.isfinite().all()
        assert gradient[:, 2:].abs().amax((1, 2, 3)).gt(0).all()


@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("objective", ["hybrid", "vlb"])
@predictions
def test_gradients_are_finite_with_a_thousand_steps(cosine, objective, prediction):
    schedule = "squaredcos_cap_v2" if cosine else "linear"
    process = made(DDPMScheduler(beta_schedule=schedule).betas, prediction, "learned_range")
    generator = torch.Generator().manual_seed(0)
    x_0, noise = torch.rand(1000, 1, 2, 2, generator=generator) * 2 - 1, torch.randn(1000, 1, 2, 2, generator=generator)
    # a mean far off, and a variance as far as one may go that is to lie in [-1, 1]
    output = torch.randn(1000, 2, 2, 2, generator=generator) * torch.tensor([100.0, 5.0]).view(1, 2, 1, 1)
    output.requires_grad_()
    for weighting in weights.WEIGHTS.values():
        loss = DiffusionLoss(process, weighting(process), objective)(output, x_0, noise, torch.arange(1000))
        (gradient,) = torch.autograd.grad(loss.sum(), output)
        assert loss.isfinite().all()
        assert gradient.isfinite().all()
