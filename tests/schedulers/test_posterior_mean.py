"""Sampling by a predicted posterior mean against diffusers' own sampling by the x_0 that it stands for."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from hfgen.schedulers import LinearDDPMScheduler, PosteriorMeanDDPMScheduler, reverse_process

STEPS = 50
BETAS = {"beta_start": 0.002, "beta_end": 0.4}


def drawn(seed):
    generator = torch.Generator().manual_seed(seed)
    x_0, x_t, extra = (torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    return x_0, x_t, extra


def mean(process, x_0, x_t, t):
    before, alpha_bar, beta = process.forward.alpha_bar_prev[t], process.forward.alpha_bar[t], process.forward.beta[t]
    return (before.sqrt() * beta * x_0 + (1 - beta).sqrt() * (1 - before) * x_t) / (1 - alpha_bar)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("steps", [STEPS, 7])
def test_steps_equal_those_of_the_x_0_that_belongs_to_the_mean(variance, schedule, clip, steps):
    arguments = {**BETAS, "beta_schedule": schedule, "variance_type": variance, "clip_sample": clip}
    ours = PosteriorMeanDDPMScheduler(STEPS, **arguments)
    stock = DDPMScheduler(STEPS, **arguments, prediction_type="sample")
    process = reverse_process(ours)
    for scheduler in (ours, stock):
        scheduler.set_timesteps(steps)
    assert torch.equal(ours.timesteps, stock.timesteps)
    for t in ours.timesteps:
        x_0, x_t, extra = drawn(int(t))
        extra = [extra] if variance == "learned_range" else []
        outputs = [torch.cat([first, *extra], 1).float() for first in (mean(process, x_0, x_t, t), x_0)]
        found, expected = (
            scheduler.step(output, t, x_t.float(), torch.Generator().manual_seed(0))
            for scheduler, output in zip((ours, stock), outputs, strict=True)
        )
        assert found.prev_sample.dtype == torch.float32
        # float32 betas, and at early t the difference of nearly equal numbers
        assert torch.allclose(found.pred_original_sample, expected.pred_original_sample, atol=2e-3), t
        assert torch.allclose(found.prev_sample, expected.prev_sample, atol=2e-3), t


def test_a_step_goes_to_the_predicted_mean():
    scheduler = PosteriorMeanDDPMScheduler(STEPS, **BETAS, clip_sample=False)
    deviation = reverse_process(scheduler).forward.beta_tilde.sqrt().float()
    for t in range(STEPS):
        _, x_t, prediction = (v.float() for v in drawn(t))
        noise = torch.randn(prediction.shape, generator=torch.Generator().manual_seed(1))
        found = scheduler.step(prediction, t, x_t, torch.Generator().manual_seed(1), return_dict=False)[0]
        assert torch.allclose(found, prediction + deviation[t] * noise, atol=1e-4), t


def test_whole_chain_of_a_perfect_model_ends_at_its_image():
    scheduler = PosteriorMeanDDPMScheduler()
    process = reverse_process(scheduler)
    x_0, x, _ = drawn(0)
    x_0 = x_0.clamp(-1, 1)
    scheduler.set_timesteps(1000)
    generator = torch.Generator().manual_seed(0)
    for t in scheduler.timesteps:
        x = scheduler.step(mean(process, x_0, x, t), t, x, generator).prev_sample
    assert torch.allclose(x, x_0, atol=1e-3)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_refuses_another_prediction(prediction):
    with pytest.raises(ValueError, match=r"for mu; use DDPMScheduler"):
        PosteriorMeanDDPMScheduler(prediction_type=prediction)
    with pytest.raises(ValueError, match=r"for mu; use DDPMScheduler"):
        PosteriorMeanDDPMScheduler.from_config(LinearDDPMScheduler(prediction_type=prediction).config)


def test_schedulers_of_diffusers_refuse_its_prediction():
    scheduler = DDIMScheduler.from_config(PosteriorMeanDDPMScheduler(STEPS, **BETAS).config)
    scheduler.set_timesteps(5)
    x = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match="prediction_type given as mu"):
        scheduler.step(x, scheduler.timesteps[0], x)


def test_config_round_trip(tmp_path):
    first = PosteriorMeanDDPMScheduler(STEPS, **BETAS, variance_type="learned_range", timestep_spacing="trailing")
    first.save_pretrained(tmp_path)
    second = PosteriorMeanDDPMScheduler.from_pretrained(tmp_path)
    assert torch.equal(second.betas, first.betas)
    assert second.variance_type == "learned_range"
    for scheduler in (first, second):
        scheduler.set_timesteps(7)
    assert torch.equal(second.timesteps, first.timesteps)
    assert first.timesteps[0] == STEPS - 1
