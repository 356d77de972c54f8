"""What networks predict: each target told back as x_0 and noise, slopes by automatic differentiation."""

import pytest
import torch

from hfgen.process import PARAMETERIZATIONS, GaussianProcess, ReverseProcess, epsilon_from_prediction

PROCESS = GaussianProcess.from_gamma(torch.linspace(-13.3, 5, 40, dtype=torch.float64))
TIMESTEPS = torch.arange(40)
names = pytest.mark.parametrize("name", list(PARAMETERIZATIONS))


def drawn():
    generator = torch.Generator().manual_seed(0)
    x_0, noise = torch.randn(2, 40, 2, 3, 3, generator=generator, dtype=torch.float64)
    return x_0, noise, PROCESS.add_noise(x_0, noise, TIMESTEPS)


def test_names_are_those_of_the_schedulers_configs():
    assert list(PARAMETERIZATIONS) == ["epsilon", "sample", "v_prediction", "mu"]
    assert all(each.prediction_type == name for name, each in PARAMETERIZATIONS.items())


@names
def test_a_target_tells_x_0_and_the_noise(name):
    x_0, noise, x_t = drawn()
    kind = PARAMETERIZATIONS[name]
    target = kind.target(PROCESS, x_0, noise, TIMESTEPS)
    torch.testing.assert_close(kind.x_0(PROCESS, target, x_t, TIMESTEPS), x_0, rtol=1e-8, atol=1e-8)
    # of x_0 and mu divided by sigma = 1.3e-3 at t = 1
    torch.testing.assert_close(kind.epsilon(PROCESS, target, x_t, TIMESTEPS), noise, rtol=1e-8, atol=1e-8)


@names
def test_the_slope_is_the_derivative_of_x_0(name):
    _, _, x_t = drawn()
    kind = PARAMETERIZATIONS[name]
    output = torch.randn_like(x_t).requires_grad_()
    (gradient,) = torch.autograd.grad(kind.x_0(PROCESS, output, x_t, TIMESTEPS).sum(), output)
    torch.testing.assert_close(gradient, kind.x_0_slope(PROCESS).view(-1, 1, 1, 1).expand_as(gradient))


@names
def test_the_error_of_x_0_is_that_of_the_prediction_told_back(name):
    x_0, noise, x_t = drawn()
    kind = PARAMETERIZATIONS[name]
    output = torch.randn_like(x_t)
    process = ReverseProcess(forward=PROCESS, parameterization=kind)
    found = process.x_0_error(x_0, noise, output, TIMESTEPS)
    torch.testing.assert_close(found, x_0 - kind.x_0(PROCESS, output, x_t, TIMESTEPS), rtol=1e-8, atol=1e-8)


@names
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_told_has_the_dtype_of_x_t(name, dtype):
    x_0, noise, x_t = (v.to(dtype) for v in drawn())
    kind = PARAMETERIZATIONS[name]
    target = kind.target(PROCESS, x_0, noise, TIMESTEPS)
    for told in (kind.x_0(PROCESS, target, x_t, TIMESTEPS), kind.epsilon(PROCESS, target, x_t, TIMESTEPS)):
        assert told.dtype == dtype


def test_the_noise_by_v_is_exact_in_float32_where_alpha_bar_rounds_to_1():
    x_0, noise, x_t = (v.float() for v in drawn())
    kind = PARAMETERIZATIONS["v_prediction"]
    found = kind.epsilon(PROCESS, kind.target(PROCESS, x_0, noise, TIMESTEPS), x_t, TIMESTEPS)
    torch.testing.assert_close(found, noise, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["epsilon", "sample", "v_prediction"])
def test_the_noise_by_alpha_bar(name):
    x_0, noise, x_t = drawn()
    target = PARAMETERIZATIONS[name].target(PROCESS, x_0, noise, TIMESTEPS)
    found = epsilon_from_prediction(name, target, x_t, PROCESS.alpha_bar.view(-1, 1, 1, 1))
    torch.testing.assert_close(found, noise, rtol=1e-7, atol=1e-7)


def test_the_noise_by_alpha_bar_alone_is_not_told_by_mu():
    with pytest.raises(ValueError, match=r"^prediction_type='mu': known here are epsilon, sample and v_prediction$"):
        epsilon_from_prediction("mu", *[torch.zeros(1)] * 3)


def test_a_variance_that_is_none():
    with pytest.raises(ValueError, match=r"^variance_type='large': known are fixed_small, "):
        ReverseProcess(forward=PROCESS, parameterization=PARAMETERIZATIONS["epsilon"], variance_type="large")
