"""Samplers by name keep what the model was trained with."""

import pytest
import torch
from diffusers import DDPMScheduler, EDMEulerScheduler

from hfgen.errors import HfgenError
from hfgen.schedulers import SAMPLER_NAMES, LinearDDPMScheduler, PosteriorMeanDDPMScheduler, make_sampler
from hfgen.schedulers.samplers import default_steps

TRAINED_WITH = {
    "stock defaults": DDPMScheduler,
    "linear": lambda: DDPMScheduler(200, beta_start=5e-4, beta_end=0.1),
    "cosine": lambda: DDPMScheduler(100, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"),
    "given betas": lambda: DDPMScheduler(3, trained_betas=[0.1, 0.2, 0.4]),
}


@pytest.mark.parametrize("name", SAMPLER_NAMES)
@pytest.mark.parametrize("trained_with", TRAINED_WITH)
def test_betas_steps_and_prediction_type_are_kept_exactly(name, trained_with):
    scheduler = TRAINED_WITH[trained_with]()
    sampler = make_sampler(name, scheduler)
    assert torch.equal(sampler.betas, scheduler.betas)
    assert sampler.config.num_train_timesteps == scheduler.config.num_train_timesteps
    assert sampler.config.prediction_type == scheduler.config.prediction_type


@pytest.mark.parametrize("name", SAMPLER_NAMES)
@pytest.mark.parametrize("steps", [1000, 250])
def test_the_linear_schedule_is_kept(name, steps):
    sampler = make_sampler(name, LinearDDPMScheduler(steps))
    expected = torch.linspace(0.1 / steps, 20 / steps, steps, dtype=torch.float64)
    assert torch.allclose(sampler.betas.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", SAMPLER_NAMES)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_few_steps_start_at_the_noise(name, steps):
    sampler = make_sampler(name, DDPMScheduler(100))
    sampler.set_timesteps(steps)
    assert sampler.timesteps[0] == 99


def test_ddpm_keeps_the_class_and_returns_from_others():
    assert type(make_sampler("ddpm", LinearDDPMScheduler())) is LinearDDPMScheduler
    back = make_sampler("ddpm", make_sampler("heun", DDPMScheduler(100, variance_type="fixed_large")))
    assert type(back) is DDPMScheduler
    assert back.config.variance_type == "fixed_large"


def test_mistakes_name_the_way_out():
    with pytest.raises(HfgenError, match=r"'plms': choose one of ddpm, ddim, dpmsolver\+\+"):
        make_sampler("plms", DDPMScheduler())
    with pytest.raises(HfgenError, match="EDMEulerScheduler has no betas"):
        make_sampler("ddim", EDMEulerScheduler())
    with pytest.raises(HfgenError, match="HeunDiscreteScheduler cannot keep the betas"):
        make_sampler("heun", DDPMScheduler(rescale_betas_zero_snr=True))
    with pytest.raises(HfgenError, match="predicts mu, which DDIMScheduler does not know: use --scheduler ddpm"):
        make_sampler("ddim", PosteriorMeanDDPMScheduler())


@pytest.mark.parametrize("schedule", ["laplace", "sigmoid"])
@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_betas_that_a_sampler_has_no_formula_for_are_kept(name, schedule):
    trained = DDPMScheduler(beta_schedule=schedule)
    assert torch.allclose(make_sampler(name, trained).betas.double(), trained.betas.double(), rtol=1e-6)


def test_default_steps():
    assert [default_steps(name, 1000) for name in SAMPLER_NAMES] == [1000, 50, 20, 20, 50, 50]
    assert [default_steps(name, 10) for name in SAMPLER_NAMES] == [10] * 6
