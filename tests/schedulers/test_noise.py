"""The noise schedules of the trainers: their betas for any T, and ancestral steps with a learned variance."""

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from hfgen.core.errors import HfgenError
from hfgen.schedulers import LinearDDPMScheduler, PosteriorMeanDDPMScheduler, make_sampler, reverse_process
from hfgen.schedulers.noise import noise_scheduler

PREDICTIONS = ["epsilon", "sample", "v_prediction"]


@pytest.mark.parametrize("steps", [21, 100, 1000])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
def test_linear_is_that_of_ho_et_al_for_any_number_of_steps(steps, prediction, variance):
    scheduler = noise_scheduler("linear", steps, prediction, variance)
    assert type(scheduler) is LinearDDPMScheduler
    assert scheduler.config.prediction_type == prediction
    assert scheduler.config.variance_type == scheduler.variance_type == variance
    assert scheduler.betas.tolist() == pytest.approx(np.linspace(0.1 / steps, 20 / steps, steps).tolist())


@pytest.mark.parametrize("steps", [10, 100, 1000])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_cosine_is_that_of_diffusers_for_any_number_of_steps(steps, prediction):
    scheduler = noise_scheduler("squaredcos_cap_v2", steps, prediction)
    stock = DDPMScheduler(steps, beta_schedule="squaredcos_cap_v2", prediction_type=prediction)
    assert type(scheduler) is DDPMScheduler
    assert torch.equal(scheduler.betas, stock.betas)
    assert scheduler.config.prediction_type == prediction
    # equation 17 of Nichol & Dhariwal 2021, betas cut at 0.999
    f = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
    assert scheduler.betas.tolist() == pytest.approx(np.minimum(1 - f[1:] / f[:-1], 0.999).tolist(), abs=1e-6)


@pytest.mark.parametrize("steps", [100, 1000])
def test_sigmoid_runs_between_the_ends_of_the_linear_schedule(steps):
    betas = noise_scheduler("sigmoid", steps).betas.double()
    start, end = 0.1 / steps, 20 / steps
    sigmoid = torch.linspace(-6, 6, steps, dtype=torch.float64).sigmoid()
    assert torch.allclose(betas, sigmoid * (end - start) + start, rtol=1e-5)
    assert (1 - betas).cumprod(0)[-1] < 1e-3


@pytest.mark.parametrize("steps", [100, 1000])
def test_scaled_linear_is_that_of_stable_diffusion_whatever_t(steps):
    stock = DDPMScheduler(steps, beta_start=0.85 / steps, beta_end=12 / steps, beta_schedule="scaled_linear")
    assert torch.equal(noise_scheduler("scaled_linear", steps).betas, stock.betas)
    with pytest.raises(ValueError, match="use more than 12 steps"):
        noise_scheduler("scaled_linear", 12)


@pytest.mark.parametrize("schedule", ["linear", "sigmoid", "squaredcos_cap_v2"])
@pytest.mark.parametrize("steps", [100, 1000])
def test_posterior_mean_has_the_same_betas(schedule, steps):
    scheduler = noise_scheduler(schedule, steps, "mu", "fixed_large")
    assert type(scheduler) is PosteriorMeanDDPMScheduler
    assert scheduler.config.variance_type == "fixed_large"
    expected = noise_scheduler(schedule, steps).betas
    assert torch.allclose(scheduler.betas.double(), expected.double(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("schedule", ["linear", "sigmoid"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "mu"])
@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("steps", [1, 10, 20])
def test_too_few_steps_for_betas_below_1(schedule, prediction, zero_snr, steps):
    with pytest.raises(ValueError, match=r"use"):
        noise_scheduler(schedule, steps, prediction, rescale_betas_zero_snr=zero_snr)
    if not zero_snr:
        with pytest.raises(ValueError, match="use more than 20 steps"):
            noise_scheduler(schedule, steps, prediction)


@pytest.mark.parametrize("schedule", ["linear", "sigmoid", "squaredcos_cap_v2"])
@pytest.mark.parametrize("prediction", ["sample", "v_prediction"])
@pytest.mark.parametrize("steps", [50, 1000])
def test_zero_terminal_snr(schedule, prediction, steps):
    scheduler = noise_scheduler(schedule, steps, prediction, rescale_betas_zero_snr=True)
    process = reverse_process(scheduler)
    assert process.forward.alpha_bar[-1] == 0
    plain = reverse_process(noise_scheduler(schedule, steps, prediction))
    # sqrt(alpha_bar) moves linearly, its first value staying: algorithm 1 of Lin et al. 2023
    root = plain.forward.alpha_bar.sqrt()
    expected = (root - root[-1]) * root[0] / (root[0] - root[-1])
    assert torch.allclose(process.forward.alpha_bar.sqrt(), expected, atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "mu"])
def test_zero_terminal_snr_needs_a_prediction_that_tells_x_0(prediction):
    with pytest.raises(ValueError, match="use v_prediction or sample"):
        noise_scheduler("linear", 100, prediction, rescale_betas_zero_snr=True)


def outputs(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x_t, output = torch.randn(2, 1, 4, 4, generator=generator), torch.randn(2, 2, 4, 4, generator=generator)
    return x_t, output


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_ancestral_steps_with_a_learned_variance_equal_the_stock_ones(prediction):
    ours = LinearDDPMScheduler(50, variance_type="learned_range", prediction_type=prediction)
    betas = ours.betas.float().numpy()
    stock = DDPMScheduler(50, trained_betas=betas, variance_type="learned_range", prediction_type=prediction)
    for t in range(50):
        x_t, output = outputs(t)
        one, other = (s.step(output, t, x_t, torch.Generator().manual_seed(t)) for s in (ours, stock))
        assert torch.allclose(one.prev_sample.float(), other.prev_sample, atol=1e-4), t
        assert torch.allclose(one.pred_original_sample.float(), other.pred_original_sample, atol=1e-4), t


@pytest.mark.parametrize("steps", [50, 7])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
def test_the_last_step_adds_no_noise(steps, spacing, variance):
    scheduler = LinearDDPMScheduler(50, variance_type=variance, timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    x_t, output = outputs()
    output = output if variance == "learned_range" else output[:, :1]
    for t in scheduler.timesteps:
        a, b = (scheduler.step(output, t, x_t, torch.Generator().manual_seed(i)).prev_sample for i in range(2))
        assert a.isfinite().all()
        assert torch.equal(a, b) == (t == scheduler.timesteps[-1])


@pytest.mark.parametrize("prediction", [*PREDICTIONS, "mu"])
@pytest.mark.parametrize("schedule", ["linear", "sigmoid", "squaredcos_cap_v2"])
def test_a_sampler_keeps_the_betas_and_the_prediction(prediction, schedule):
    scheduler = noise_scheduler(schedule, 100, prediction, "learned_range")
    sampler = make_sampler("ddpm", scheduler)
    assert isinstance(sampler, type(scheduler))
    assert sampler.config.prediction_type == prediction
    assert sampler.variance_type == "learned_range"
    if prediction == "mu":
        with pytest.raises(HfgenError, match="use --scheduler ddpm"):
            make_sampler("ddim", scheduler)
    else:
        assert make_sampler("ddim", scheduler).config.prediction_type == prediction
