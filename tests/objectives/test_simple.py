"""L_simple against its closed form where the ideal noise predictor is known."""

import numpy as np
import pytest
import torch

from hfgen.objectives import SimpleLoss
from hfgen.schedulers.scheduling_hfgen_linear_ddpm import LinearDDPMScheduler

NUM_STEPS = 100
DATA_STD = 0.5


def alpha_bar():
    return np.cumprod(1 - np.linspace(0.1 / NUM_STEPS, 20 / NUM_STEPS, NUM_STEPS))


def least_loss():
    """Per step, the variance of eps given x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps, x_0 ~ N(0, s^2).

    eps and x_t are jointly Gaussian: 1 - cov^2 / var(x_t), with cov = sqrt(1 - alpha_bar).
    """
    variance = alpha_bar() * DATA_STD**2 + 1 - alpha_bar()
    return 1 - (1 - alpha_bar()) / variance


class IdealPredictor(torch.nn.Module):
    """E[eps | x_t] for x_0 ~ N(0, s^2): linear in x_t. Keeps the timesteps that it was asked for."""

    def forward(self, x_t, timesteps, return_dict):
        assert not return_dict
        self.timesteps = timesteps
        slope = np.sqrt(1 - alpha_bar()) / (alpha_bar() * DATA_STD**2 + 1 - alpha_bar())
        return (torch.from_numpy(slope).float()[timesteps][:, None, None, None] * x_t,)


def gaussian_images(count, seed):
    generator = torch.Generator().manual_seed(seed)
    x_0 = DATA_STD * torch.randn(count, 3, 8, 8, generator=generator)
    return x_0, torch.randn(count, 3, 8, 8, generator=generator)


@pytest.mark.parametrize("timestep", [0, 1, 10, 50, 98, 99])
def test_ideal_predictor_has_the_least_loss_at_each_step(timestep):
    x_0, noise = gaussian_images(500, seed=timestep)
    model = IdealPredictor()
    losses = SimpleLoss(LinearDDPMScheduler(NUM_STEPS))(
        model, x_0, noise, torch.full((500,), (timestep + 0.5) / NUM_STEPS)
    )
    assert model.timesteps.eq(timestep).all()
    assert losses.shape == (500,)
    least = least_loss()[timestep]
    # 96,000 squares of Gaussian residuals, each with a standard deviation of sqrt(2) times its mean; 5 standard errors
    assert abs(losses.mean().item() - least) < 5 * least * np.sqrt(2 / noise.numel())


def test_expected_loss_over_all_steps():
    x_0, noise = gaussian_images(10 * NUM_STEPS, seed=0)
    uniform = (torch.arange(10 * NUM_STEPS) + 0.5) / (10 * NUM_STEPS)
    losses = SimpleLoss(LinearDDPMScheduler(NUM_STEPS))(IdealPredictor(), x_0, noise, uniform)
    # as above; at each step 10 images of 192 pixels, so the mean's variance is that of the steps' variances
    standard_error = np.sqrt(2 * np.square(least_loss()).mean() / noise.numel())
    assert abs(losses.mean().item() - least_loss().mean()) < 5 * standard_error


def test_loss_is_the_mean_square_over_the_pixels_of_each_image():
    x_0, noise = gaussian_images(2, seed=0)
    losses = SimpleLoss(LinearDDPMScheduler(NUM_STEPS))(
        lambda x_t, timesteps, return_dict: (torch.zeros_like(x_t, dtype=torch.bfloat16),), x_0, noise, torch.rand(2)
    )
    assert losses.dtype == torch.float32
    # float32 sums of 192 squares
    np.testing.assert_allclose(losses, np.square(noise.double().numpy()).mean(axis=(1, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize("num_steps", [1000, 100, 33])
def test_evenly_spread_uniforms_visit_every_step_once(num_steps):
    loss = SimpleLoss(LinearDDPMScheduler(num_steps))
    timesteps = loss.sample_timesteps((torch.arange(num_steps) + 0.5) / num_steps)
    assert timesteps.dtype == torch.int64
    assert timesteps.tolist() == list(range(num_steps))


def test_random_steps_are_uniform():
    uniform = torch.rand(100_000, generator=torch.Generator().manual_seed(0))
    counts = SimpleLoss(LinearDDPMScheduler(NUM_STEPS)).sample_timesteps(uniform).bincount(minlength=NUM_STEPS)
    assert len(counts) == NUM_STEPS
    chi_square = ((counts - 1000) ** 2 / 1000).sum().item()
    # 99 degrees of freedom: mean 99, variance 198; five standard deviations either way, as too even is wrong too
    assert abs(chi_square - 99) < 5 * np.sqrt(198)


@pytest.mark.parametrize("num_steps", [1000, 1024, 333, 100])
def test_ends_of_the_interval_stay_within_the_steps(num_steps):
    just_below_one = np.nextafter(1, 0, dtype=np.float64)
    uniform = torch.tensor([0.0, np.nextafter(np.float32(1), np.float32(0)), just_below_one], dtype=torch.float32)
    assert uniform[2] == 1  # float64 numbers just below 1 round up
    timesteps = SimpleLoss(LinearDDPMScheduler(num_steps)).sample_timesteps(uniform)
    assert timesteps.tolist() == [0, num_steps - 1, num_steps - 1]
