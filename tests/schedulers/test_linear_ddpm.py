"""LinearDDPMScheduler against numpy in float64 (Bayes' rule, not the paper's formulas) and against stock diffusers."""

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from hfgen.schedulers.scheduling_hfgen_linear_ddpm import LinearDDPMScheduler

U32 = 2.0**-24  # half the distance of float32 numbers near 1: one rounding's relative error
SHAPE = (2, 1, 4, 4)


def reference_betas(num_steps):
    return np.linspace(0.1 / num_steps, 20 / num_steps, num_steps)


def reference_alpha_bar(num_steps):
    """alpha_bar and 1 - alpha_bar, by logarithms: neither cancels."""
    log_alpha_bar = np.cumsum(np.log1p(-reference_betas(num_steps)))
    return np.exp(log_alpha_bar), -np.expm1(log_alpha_bar)


def bayes_posterior(num_steps, x_0, x_t, t, previous):
    """Mean and variance of q(x_previous | x_t, x_0): q(x_t | x_previous) times q(x_previous | x_0), two Gaussians."""
    if previous < 0:  # x_previous is x_0
        return x_0, 0.0
    alpha_bar, sigma2 = reference_alpha_bar(num_steps)
    alpha = alpha_bar[t] / alpha_bar[previous]
    beta = sigma2[t] - alpha * sigma2[previous]
    precision = alpha / beta + 1 / sigma2[previous]
    mean = (np.sqrt(alpha) / beta * x_t + np.sqrt(alpha_bar[previous]) / sigma2[previous] * x_0) / precision
    return mean, 1 / precision


def reference_step(scheduler, epsilon, t, previous, x_t, z):
    num_steps = scheduler.config.num_train_timesteps
    alpha_bar, sigma2 = reference_alpha_bar(num_steps)
    x_0 = (x_t - np.sqrt(sigma2[t]) * epsilon) / np.sqrt(alpha_bar[t])
    if scheduler.config.clip_sample:
        x_0 = np.clip(x_0, -1, 1)
    mean, variance = bayes_posterior(num_steps, x_0, x_t, t, previous)
    if previous < 0:  # z = 0 at the last step (Ho et al., algorithm 2)
        return mean
    if scheduler.config.variance_type == "fixed_large":
        variance = 1 - alpha_bar[t] / alpha_bar[previous]
    return mean + np.sqrt(variance) * z


def generator(seed):
    return torch.Generator().manual_seed(seed)


def normal(seed, dtype=torch.float32, shape=SHAPE):
    return torch.randn(shape, generator=generator(seed), dtype=dtype)


@pytest.mark.parametrize("num_steps", [1000, 400, 100])
def test_betas_are_linear_and_scaled(num_steps):
    beta = LinearDDPMScheduler(num_steps).beta
    assert beta.dtype == torch.float64
    # two linspaces in float64 differ by a few roundings of 1e-16
    np.testing.assert_allclose(beta, reference_betas(num_steps), rtol=1e-14)


@pytest.mark.parametrize("num_steps", [1000, 400, 100, 21])
def test_almost_no_signal_is_left_at_the_last_step(num_steps):
    assert 0 < LinearDDPMScheduler(num_steps).alpha_bar[-1] < 1e-4


def test_betas_that_are_passed_are_kept():
    scheduler = LinearDDPMScheduler(100, beta_start=1e-4, beta_end=0.02)
    # float64 roundings of 100 factors
    np.testing.assert_allclose(scheduler.alpha_bar[-1], np.prod(1 - np.linspace(1e-4, 0.02, 100)), rtol=1e-13)
    assert scheduler.alpha_bar[-1] > 0.36  # what the scaling is there to prevent


@pytest.mark.parametrize("num_steps", [10, 20])
def test_too_few_steps_for_linear_betas(num_steps):
    with pytest.raises(ValueError, match=f"num_train_timesteps={num_steps}: .* use more than 20 steps"):
        LinearDDPMScheduler(num_steps)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_train_timesteps": 0}, "num_train_timesteps=0"),
        ({"beta_schedule": "squaredcos_cap_v2"}, "beta_schedule='squaredcos_cap_v2': this schedule is linear"),
        (
            {"variance_type": "fixed_large_log"},
            "variance_type='fixed_large_log': choose fixed_small .* or learned_range",
        ),
    ],
)
def test_unusable_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        LinearDDPMScheduler(**arguments)


@pytest.mark.parametrize("num_steps", [1000, 100])
def test_forward_process_in_float64(num_steps):
    scheduler = LinearDDPMScheduler(num_steps)
    alpha_bar, sigma2 = reference_alpha_bar(num_steps)
    # 1 - alpha_bar_1 = 1e-4 keeps 12 of float64's 16 digits, and up to 1,000 factors cost one or two more
    for ours, reference in (
        (scheduler.alpha_bar, alpha_bar),
        (scheduler.alpha_bar_prev, np.append(1, alpha_bar[:-1])),
        (scheduler.snr, alpha_bar / sigma2),
        (scheduler.beta_tilde, [bayes_posterior(num_steps, 0, 0, t, t - 1)[1] for t in range(num_steps)]),
    ):
        assert ours.dtype == torch.float64
        np.testing.assert_allclose(ours, reference, rtol=1e-10)


@pytest.mark.parametrize("num_steps", [1000, 100])
def test_posterior_is_bayes_rule(num_steps):
    t = torch.arange(num_steps)
    x_0, x_t = (normal(seed, torch.float64, (num_steps, 1, 2, 2)) for seed in (0, 1))
    mean, variance = LinearDDPMScheduler(num_steps).posterior(x_0, x_t, t)
    assert variance.shape == (num_steps, 1, 1, 1)
    for i in range(num_steps):
        reference, reference_variance = bayes_posterior(num_steps, x_0[i].numpy(), x_t[i].numpy(), i, i - 1)
        # as above; the mean's two terms may cancel, hence an absolute tolerance of the same size
        np.testing.assert_allclose(mean[i], reference, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(variance[i].item(), reference_variance, rtol=1e-10)


def test_posterior_mean_in_terms_of_the_noise():
    scheduler = LinearDDPMScheduler(100)
    t = torch.arange(100)
    alpha_bar, sigma2 = (torch.from_numpy(a)[:, None, None, None] for a in reference_alpha_bar(100))
    beta = torch.from_numpy(reference_betas(100))[:, None, None, None]
    x_t, epsilon = (normal(seed, torch.float64, (100, 1, 2, 2)) for seed in (0, 1))
    x_0 = (x_t - sigma2.sqrt() * epsilon) / alpha_bar.sqrt()
    mean, _ = scheduler.posterior(x_0, x_t, t)
    # x_0 reaches 1e3 at the last step, and float64 keeps 1e-10 of that with room to spare
    torch.testing.assert_close(mean, (x_t - beta / sigma2.sqrt() * epsilon) / (1 - beta).sqrt(), rtol=0, atol=1e-10)


def test_posterior_at_the_first_step_is_the_image():
    x_0 = normal(0)
    mean, variance = LinearDDPMScheduler().posterior(x_0, normal(1), torch.zeros(2, dtype=torch.int64))
    assert mean.dtype == variance.dtype == torch.float32
    assert mean.equal(x_0)
    assert variance.eq(0).all()


def all_steps(scheduler):
    """x_{t-1} at each t of 0..T-1, from the same x_t and predicted noise, with noise seeded by t."""
    x_t, epsilon = normal(0), normal(1)
    return [
        scheduler.step(epsilon, t, x_t, generator=generator(t)).prev_sample
        for t in range(scheduler.config.num_train_timesteps)
    ]


@pytest.mark.parametrize("clip_sample", [False, True])
@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("num_steps", [1000, 100])
def test_every_step_equals_stock_and_is_more_exact(num_steps, variance_type, clip_sample):
    scheduler = LinearDDPMScheduler(num_steps, variance_type=variance_type, clip_sample=clip_sample)
    stock = DDPMScheduler.from_config(scheduler.config)
    x_t, epsilon = normal(0).double().numpy(), normal(1).double().numpy()
    _, sigma2 = reference_alpha_bar(num_steps)
    worst = {"ours": 0.0, "stock": 0.0}
    for t, (ours, theirs) in enumerate(zip(all_steps(scheduler), all_steps(stock), strict=True)):
        # Stock's float32 alpha_bar is rounded at each of up to 1,000 factors (64 roundings hold them with room), and
        # 1 - alpha_bar magnifies a rounding by 1 / (1 - alpha_bar); the images reach 3
        torch.testing.assert_close(ours, theirs, rtol=0, atol=3 * U32 * (64 + 4 / sigma2[t]))
        reference = reference_step(scheduler, epsilon, t, t - 1, x_t, normal(t).double().numpy())
        scale = np.abs(reference).max()
        worst["ours"] = max(worst["ours"], np.abs(ours.double().numpy() - reference).max() / scale)
        worst["stock"] = max(worst["stock"], np.abs(theirs.double().numpy() - reference).max() / scale)
    # ours: the coefficients are exact, what remains is a handful of float32 operations on the images
    assert worst["ours"] < 6 * U32
    assert worst["stock"] > 10 * worst["ours"]


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
def test_strided_steps_are_bayes_rule_over_the_stride(variance_type, spacing):
    scheduler = LinearDDPMScheduler(1000, variance_type=variance_type, timestep_spacing=spacing, clip_sample=False)
    scheduler.set_timesteps(20)
    timesteps = scheduler.timesteps.tolist()
    assert timesteps == list(range(950, -1, -50) if spacing == "leading" else range(999, 0, -50))
    x_t, epsilon = normal(0), normal(1)
    for t, previous in zip(timesteps, [*timesteps[1:], -1], strict=True):
        ours = scheduler.step(epsilon, t, x_t, generator=generator(t)).prev_sample
        reference = reference_step(
            scheduler, epsilon.double().numpy(), t, previous, x_t.double().numpy(), normal(t).double().numpy()
        )
        # a handful of float32 operations
        np.testing.assert_allclose(ours.double(), reference, rtol=0, atol=16 * U32 * np.abs(reference).max())


def test_predicted_velocity_and_image_give_the_step_of_the_noise():
    x_0, epsilon = normal(0), normal(1)
    t = torch.full((2,), 50)
    by_noise, by_velocity, by_image = (
        LinearDDPMScheduler(100, prediction_type=p, clip_sample=False) for p in ("epsilon", "v_prediction", "sample")
    )
    x_t = by_noise.add_noise(x_0, epsilon, t)
    steps = [
        scheduler.step(prediction, 50, x_t, generator=generator(2)).prev_sample
        for scheduler, prediction in (
            (by_noise, epsilon),
            (by_velocity, by_noise.get_velocity(x_0, epsilon, t)),
            (by_image, x_0),
        )
    ]
    # float32 operations on numbers up to 3; x_0 from the noise is divided by sqrt(alpha_bar) = 0.28
    torch.testing.assert_close(steps[0], steps[2], rtol=0, atol=1e-5)
    torch.testing.assert_close(steps[1], steps[2], rtol=0, atol=1e-5)


@pytest.mark.parametrize("num_steps", [1000, 100])
def test_add_noise_and_velocity(num_steps):
    scheduler = LinearDDPMScheduler(num_steps)
    t = torch.arange(num_steps)
    x_0, epsilon = (normal(seed, shape=(num_steps, 1, 2, 2)) for seed in (0, 1))
    alpha_bar, sigma2 = (a[:, None, None, None] for a in reference_alpha_bar(num_steps))
    a, b = x_0.double().numpy(), epsilon.double().numpy()
    # two coefficients, two products and a sum are rounded to float32: under 3 roundings of terms up to |a| + |b|
    tolerance = 3 * U32 * (np.abs(a) + np.abs(b))
    x_t = scheduler.add_noise(x_0, epsilon, t)
    v = scheduler.get_velocity(x_0, epsilon, t)
    assert x_t.dtype == v.dtype == torch.float32
    assert (np.abs(x_t.double().numpy() - (np.sqrt(alpha_bar) * a + np.sqrt(sigma2) * b)) <= tolerance).all()
    assert (np.abs(v.double().numpy() - (np.sqrt(alpha_bar) * b - np.sqrt(sigma2) * a)) <= tolerance).all()


def public(config):
    return {k: v for k, v in config.items() if not k.startswith("_")}


@pytest.mark.parametrize("num_steps", [1000, 100])
def test_config_round_trip(num_steps, tmp_path):
    scheduler = LinearDDPMScheduler(num_steps, variance_type="fixed_large", clip_sample=False)
    scheduler.save_config(tmp_path)
    for again in (
        LinearDDPMScheduler.from_pretrained(tmp_path),
        LinearDDPMScheduler.from_config(scheduler.config),
    ):
        assert public(again.config) == public(scheduler.config)
        assert again.beta.equal(scheduler.beta)
        assert again.variance_type == "fixed_large"


@pytest.mark.parametrize("num_steps", [1000, 100])
@pytest.mark.parametrize(
    "cls",
    [DDPMScheduler, DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler, EulerDiscreteScheduler],
)
def test_stock_schedulers_keep_the_betas(cls, num_steps, tmp_path):
    scheduler = LinearDDPMScheduler(num_steps)
    scheduler.save_config(tmp_path)
    for other in (cls.from_config(scheduler.config), cls.from_pretrained(tmp_path)):
        # theirs are float32: a few roundings
        np.testing.assert_allclose(other.betas, reference_betas(num_steps), rtol=4 * U32)
