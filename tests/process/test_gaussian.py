"""The forward process over gamma, against the chain's own covariances, Bayes' rule and arithmetic of many digits."""

import mpmath
import pytest
import torch

from hfgen.process import (
    PARAMETERIZATIONS,
    GaussianProcess,
    ReverseProcess,
    append_dims,
    one_minus_snr_ratio,
    squared_coefficients,
    values_at,
)

# the ends of Kingma et al. 2021: 1 - alpha_bar is 1.7e-6 at the first
GAMMA = torch.linspace(-13.3, 5, 60, dtype=torch.float64)
TABLES = ("gamma", "beta", "alpha", "alpha_bar", "one_minus_alpha_bar", "beta_tilde", "snr", "signal", "sigma")


def sigmoid(x):
    return 1 / (1 + mpmath.exp(-x))


def test_squares_of_the_coefficients_in_many_digits():
    alpha_bar, rest = squared_coefficients(GAMMA)
    with mpmath.workdps(50):
        for i, gamma in enumerate(GAMMA.tolist()):
            assert alpha_bar[i].item() == pytest.approx(float(sigmoid(-mpmath.mpf(gamma))), rel=1e-15)
            assert rest[i].item() == pytest.approx(float(sigmoid(mpmath.mpf(gamma))), rel=1e-15)


@pytest.mark.parametrize("gap", [1e-9, 1e-3, 1.0, 30.0])
def test_one_minus_the_ratio_of_snr_in_many_digits(gap):
    gamma_s = torch.tensor(-3.0, dtype=torch.float64)
    gamma_t = gamma_s + gap
    with mpmath.workdps(50):
        ratio = mpmath.exp(mpmath.mpf(gamma_s.item()) - mpmath.mpf(gamma_t.item()))
        expected = float(1 - ratio)
    assert one_minus_snr_ratio(gamma_s, gamma_t).item() == pytest.approx(expected, rel=1e-14)


def test_a_chain_of_gamma_in_many_digits():
    """beta from the quotient of alpha_bar, beta_tilde by adding precisions."""
    process = GaussianProcess.from_gamma(GAMMA)
    with mpmath.workdps(60):
        before = mpmath.mpf(1)
        for i, gamma in enumerate(GAMMA.tolist()):
            alpha_bar = sigmoid(-mpmath.mpf(gamma))
            alpha = alpha_bar / before
            tilde = 0 if i == 0 else 1 / (1 / (1 - before) + alpha / (1 - alpha))
            expected = {
                "beta": 1 - alpha,
                "alpha": alpha,
                "alpha_bar": alpha_bar,
                "one_minus_alpha_bar": 1 - alpha_bar,
                "alpha_bar_prev": before,
                "one_minus_alpha_bar_prev": 1 - before,
                "beta_tilde": tilde,
                "snr": alpha_bar / (1 - alpha_bar),
                "signal": mpmath.sqrt(alpha_bar),
                "sigma": mpmath.sqrt(1 - alpha_bar),
            }
            for name, value in expected.items():
                assert getattr(process, name)[i].item() == pytest.approx(float(value), rel=1e-13), name
            before = alpha_bar
    assert process.num_steps == 60


@pytest.mark.parametrize("betas", [torch.linspace(1e-4, 0.02, 1000).double(), torch.tensor([0.15, 0.4, 0.8]).double()])
def test_betas_and_their_gamma_are_one_chain(betas):
    given = GaussianProcess.from_betas(betas)
    again = GaussianProcess.from_gamma(given.gamma)
    for name in TABLES:
        assert getattr(given, name).dtype == torch.float64
        # 1 - alpha_bar_1 = 1e-4 keeps 12 digits
        torch.testing.assert_close(getattr(again, name), getattr(given, name), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(given.snr.log(), -given.gamma)


def test_the_last_beta_may_be_1():
    process = GaussianProcess.from_betas(torch.tensor([0.1, 0.5, 1.0]))
    assert process.alpha_bar[-1] == 0
    assert process.gamma[-1] == torch.inf
    assert GaussianProcess.from_gamma(process.gamma).beta[-1] == 1


def test_gamma_of_the_discrete_bound():
    """Kingma et al. 2021, equation 14: L_{t-1} = 1/2 expm1(gamma_t - gamma_s) ||eps - eps_hat||^2 for the variance beta_tilde."""
    process = ReverseProcess(forward=GaussianProcess.from_gamma(GAMMA), parameterization=PARAMETERIZATIONS["epsilon"])
    generator = torch.Generator().manual_seed(0)
    x_0, noise, guess = torch.randn(3, 59, 1, 2, 2, generator=generator, dtype=torch.float64)
    timesteps = torch.arange(1, 60)
    found = process.terms_of_output(guess, x_0, noise, timesteps)
    expected = torch.expm1(GAMMA.diff()) / 2 * (noise - guess).square().flatten(1).sum(1)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)


def test_gamma_of_the_bound_by_v():
    """Its continuous form in v has the weight gamma' alpha^2 / 2, whose sum over a fine grid is that of the discrete one."""
    gamma = torch.linspace(-6, 4, 20_001, dtype=torch.float64)
    process = ReverseProcess(
        forward=GaussianProcess.from_gamma(gamma), parameterization=PARAMETERIZATIONS["v_prediction"]
    )
    timesteps = torch.arange(1, len(gamma))
    ones = torch.ones(len(timesteps), 1, 1, 1, dtype=torch.float64)
    target = process.parameterization.target(process.forward, ones, ones, timesteps)
    found = process.terms_of_output(target + 1, ones, ones, timesteps).sum()
    # the integral of sigmoid(-gamma) / 2 over gamma
    # = (gamma - softplus(gamma)) / 2 between the ends
    antiderivative = (gamma - torch.nn.functional.softplus(gamma)) / 2
    expected = antiderivative[-1] - antiderivative[0]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("shape", [(), (7,), (1, 2, 2), (3, 2, 4, 4)])
def test_noise_and_posterior_of_data_of_any_shape(shape):
    process = GaussianProcess.from_gamma(GAMMA)
    generator = torch.Generator().manual_seed(0)
    x_0, noise = torch.randn(2, 60, *shape, generator=generator, dtype=torch.float64)
    timesteps = torch.arange(60)
    x_t = process.add_noise(x_0, noise, timesteps)
    mean, variance = process.posterior(x_0, x_t, timesteps)
    assert x_t.shape == mean.shape == x_0.shape
    assert variance.shape == (60, *[1] * len(shape))
    for i in (0, 1, 30, 59):
        alpha_bar = process.alpha_bar[i]
        torch.testing.assert_close(x_t[i], alpha_bar.sqrt() * x_0[i] + (1 - alpha_bar).sqrt() * noise[i])
        if i == 0:
            assert torch.equal(mean[0], x_0[0])
            continue
        # precisions of q(x_t | x_{t-1}) and q(x_{t-1} | x_0)
        from_x_t, from_x_0 = process.alpha[i] / process.beta[i], 1 / (1 - process.alpha_bar[i - 1])
        by_bayes = from_x_t * x_t[i] / process.alpha[i].sqrt() + from_x_0 * process.alpha_bar[i - 1].sqrt() * x_0[i]
        torch.testing.assert_close(mean[i], by_bayes / (from_x_t + from_x_0), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_have_the_dtype_of_what_they_go_with(dtype):
    like = torch.zeros(3, 1, 2, 2, dtype=dtype)
    found = values_at(GAMMA, torch.tensor([0, 59, 2]), like)
    assert found.dtype == dtype
    assert found.shape == (3, 1, 1, 1)
    assert torch.equal(found.flatten(), GAMMA[[0, 59, 2]].to(dtype))
    assert append_dims(torch.arange(3), torch.zeros(3)).shape == (3,)


def test_functions_of_gamma_have_gradients():
    """Schedules of gamma are learnt."""
    gamma = torch.tensor([-13.3, 0.0, 5.0], dtype=torch.float64, requires_grad=True)
    functions = (lambda g: squared_coefficients(g)[0], lambda g: one_minus_snr_ratio(g, 0.9 * g + 4))
    for function in functions:
        assert torch.autograd.gradcheck(function, gamma)


def test_a_device_without_float64_gets_its_numbers_at_each_use():
    process = GaussianProcess.from_gamma(GAMMA)
    kept, moved = process.to(torch.device("mps")), process.to(torch.device("meta"))
    assert kept.gamma.device.type == "cpu"
    assert moved.gamma.device.type == "meta"
    assert kept.alpha_bar.dtype == moved.alpha_bar.dtype == torch.float64


@pytest.mark.parametrize("betas", [[0.1, -0.1], [0.0, 0.1], [0.1, 1.1], [1.0, 0.1], [0.1, float("nan")]])
def test_betas_that_are_none(betas):
    with pytest.raises(ValueError, match=r"^betas from .* lie in \(0, 1\), the last may be 1$"):
        GaussianProcess.from_betas(torch.tensor(betas))


@pytest.mark.parametrize("gamma", [[1.0, 0.0], [0.0, 0.0], [0.0, float("nan")]])
def test_gamma_increases(gamma):
    with pytest.raises(ValueError, match=r"^gamma from .* does not increase"):
        GaussianProcess.from_gamma(torch.tensor(gamma))
