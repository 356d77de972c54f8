"""Samplers by name keep what the model was trained with."""

import inspect
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EDMEulerScheduler

from hfgen.core.errors import HfgenError
from hfgen.pipelines.pipeline_hfgen_class_conditional import set_timesteps
from hfgen.schedulers import SAMPLER_NAMES, LinearDDPMScheduler, PosteriorMeanDDPMScheduler, make_sampler
from hfgen.schedulers.samplers import default_sampler, default_steps
from hfgen.schedulers.scheduling_hfgen_posterior_mean import TrailingDDPMScheduler

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
    assert type(back) is TrailingDDPMScheduler
    assert back.config.variance_type == "fixed_large"


def test_mistakes_name_the_way_out():
    with pytest.raises(HfgenError, match=r"'plms': choose one of ddpm, ddim, dpmsolver\+\+"):
        make_sampler("plms", DDPMScheduler())
    with pytest.raises(HfgenError, match="EDMEulerScheduler has no betas"):
        make_sampler("ddim", EDMEulerScheduler())
    with pytest.raises(HfgenError, match="HeunDiscreteScheduler cannot keep the betas"):
        make_sampler("heun", DDPMScheduler(rescale_betas_zero_snr=True))
    with pytest.raises(HfgenError, match="HeunDiscreteScheduler cannot keep the betas"):
        make_sampler("heun", DDPMScheduler(beta_schedule="sigmoid", rescale_betas_zero_snr=True))
    with pytest.raises(HfgenError, match="predicts mu, which DDIMScheduler does not know: use --scheduler ddpm"):
        make_sampler("ddim", PosteriorMeanDDPMScheduler())


@pytest.mark.parametrize("schedule", ["laplace", "sigmoid"])
@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_betas_that_a_sampler_has_no_formula_for_are_kept(name, schedule):
    trained = DDPMScheduler(beta_schedule=schedule)
    assert torch.allclose(make_sampler(name, trained).betas.double(), trained.betas.double(), rtol=1e-6)


def test_default_steps_are_ones_that_the_sampler_can_take():
    assert [default_steps(name, 1000) for name in SAMPLER_NAMES] == [1000, 50, 20, 20, 20, 50, 50]
    assert [default_steps(name, 10) for name in SAMPLER_NAMES] == [10, 10, 5, 5, 5, 10, 10]
    assert [default_steps("ddim", T) for T in (50, 51, 64, 128, 300)] == [50, 25, 32, 42, 50]
    for T in (1, 2, 3, 10, 19, 33, 64, 127, 1000):
        for name in SAMPLER_NAMES:
            for schedule in ("linear", "squaredcos_cap_v2"):
                trained = DDPMScheduler(T, beta_schedule=schedule, prediction_type="v_prediction")
                timesteps_of(make_sampler(name, trained), default_steps(name, T))


def test_the_default_sampler_is_one_that_the_model_knows():
    assert default_sampler(LinearDDPMScheduler()) == "sde-dpmsolver++"
    assert default_sampler(PosteriorMeanDDPMScheduler()) == "ddpm"
    assert [default_sampler(DDPMScheduler(T)) for T in (20, 21)] == ["ddpm", "sde-dpmsolver++"]


def timesteps_of(sampler, steps):
    unet = SimpleNamespace(config=SimpleNamespace(time_embedding_type="positional"))
    return set_timesteps(SimpleNamespace(scheduler=sampler, unet=unet), steps).tolist()


@pytest.mark.parametrize("trained", [LinearDDPMScheduler(), LinearDDPMScheduler(100), PosteriorMeanDDPMScheduler()])
@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_any_number_of_steps_has_as_many_timesteps_of_the_model(name, trained):
    """61 trailing steps of 1000, and others, are rounded by diffusers so that the last timestep is -1."""
    if name != "ddpm" and isinstance(trained, PosteriorMeanDDPMScheduler):
        return
    sampler, T = make_sampler(name, trained), trained.config.num_train_timesteps
    for steps in [*range(1, 100), 103, 122, 201, T - 1, T]:
        if steps > T:
            continue
        if (name == "ddim" and T // steps * steps < 0.95 * T) or (name == "unipc" and steps == T):
            with pytest.raises(ValueError, match=f"num_inference_steps={steps}"):
                timesteps_of(sampler, steps)
            continue
        timesteps = timesteps_of(sampler, steps)
        timesteps = timesteps[::2] if name == "heun" else timesteps
        assert len(set(timesteps)) == len(timesteps) == steps
        assert timesteps == sorted(timesteps, reverse=True)
        assert timesteps[0] == T - 1
        assert timesteps[-1] >= 0


def gaussian_samples(name, steps, trained=None, mean=0.3, std=0.2, count=4000, share_of_log=None):
    """Samples of N(mean, std^2), drawn with the exact predictor of such data."""
    trained = trained or LinearDDPMScheduler()
    sampler = make_sampler(name, trained)
    timesteps, generator = timesteps_of(sampler, steps), torch.Generator().manual_seed(0)
    x = torch.randn(count, 1, 1, 1, generator=generator) * sampler.init_noise_sigma
    arguments = {"generator": generator} if "generator" in inspect.signature(sampler.step).parameters else {}
    for t in sampler.timesteps:
        alpha_bar = trained.alphas_cumprod[round(float(t))].double()
        x_t = sampler.scale_model_input(x, t).double()
        epsilon = (1 - alpha_bar).sqrt() * (x_t - alpha_bar.sqrt() * mean) / (alpha_bar * std**2 + 1 - alpha_bar)
        output = epsilon
        if trained.config.prediction_type == "v_prediction":
            x_0 = mean + alpha_bar.sqrt() * std**2 / (alpha_bar * std**2 + 1 - alpha_bar) * (
                x_t - alpha_bar.sqrt() * mean
            )
            output = alpha_bar.sqrt() * epsilon - (1 - alpha_bar).sqrt() * x_0
        if share_of_log is not None:
            output = torch.cat([output, torch.full_like(output, share_of_log)], dim=1)
        x = sampler.step(output.float(), t, x, **arguments).prev_sample
    assert len(timesteps) >= steps
    return x


@pytest.mark.slow
@pytest.mark.parametrize("steps", [50, 61, 201, 1000])
@pytest.mark.parametrize("name", SAMPLER_NAMES)
def test_samples_of_a_gaussian_have_its_mean_and_spread(name, steps):
    steps = {("ddim", 201): 200, ("unipc", 1000): 999}.get((name, steps), steps)
    x = gaussian_samples(name, steps)
    assert x.mean() == pytest.approx(0.3, abs=0.015)  # standard error 0.003
    # strided ancestral steps lose most spread: 0.160 is left of 50, 0.175 of 100
    assert x.std() == pytest.approx(0.2, abs=0.045 if steps < 100 else 0.02)


@pytest.mark.parametrize(
    ("variance", "share"), [("fixed_small", None), ("fixed_large", None), ("learned_range", 1), ("learned_range", 0)]
)
@pytest.mark.parametrize("cls", [DDPMScheduler, LinearDDPMScheduler])
def test_the_last_of_few_ancestral_steps_adds_no_noise(cls, variance, share):
    """Stock ones end in a standard deviation of 0.35 for 10 steps of fixed_large."""
    trained = cls(1000, variance_type=variance, clip_sample=False)
    assert gaussian_samples("ddpm", 10, trained, std=0.15, share_of_log=share).std() < 0.12
    assert gaussian_samples("ddpm", 200, trained, std=0.15, share_of_log=share).std() == pytest.approx(0.15, abs=0.025)


def test_the_last_of_few_steps_by_mu_adds_no_noise():
    sampler = make_sampler("ddpm", PosteriorMeanDDPMScheduler(variance_type="fixed_large"))
    timesteps_of(sampler, 10)
    x, last = torch.ones(1, 1, 4, 4), sampler.timesteps[-1]
    a, b = (sampler.step(x * 0.5, last, x, generator=torch.Generator().manual_seed(i)).prev_sample for i in range(2))
    assert torch.equal(a, b)


@pytest.mark.parametrize("T", [30, 1000])
@pytest.mark.parametrize("name", [name for name in SAMPLER_NAMES if name != "heun"])
def test_zero_terminal_snr_by_v(name, T):
    for schedule in ("linear", "squaredcos_cap_v2", "sigmoid"):
        betas = {"beta_schedule": schedule, "beta_start": 0.1 / T, "beta_end": 20 / T}
        trained = DDPMScheduler(
            T, **betas, prediction_type="v_prediction", rescale_betas_zero_snr=True, clip_sample=False
        )
        x = gaussian_samples(name, 15, trained)
        assert x.mean() == pytest.approx(0.3, abs=0.03)
        assert 0.1 < x.std() < 0.25


def test_ancestral_sampling_adds_noise_and_the_solvers_of_odes_do_not():
    for name in SAMPLER_NAMES:
        trained = LinearDDPMScheduler(100)
        drawn = []
        for seed in (1, 2):
            sampler = make_sampler(name, trained)
            timesteps_of(sampler, 10)
            x = torch.ones(1, 1, 4, 4)
            generator = torch.Generator().manual_seed(seed)
            arguments = {"generator": generator} if "generator" in inspect.signature(sampler.step).parameters else {}
            drawn.append(sampler.step(torch.zeros_like(x), sampler.timesteps[0], x, **arguments).prev_sample)
        assert torch.equal(*drawn) == (name not in ("ddpm", "sde-dpmsolver++"))


def test_the_sde_and_the_ode_solver_turn_into_each_other():
    sde = make_sampler("sde-dpmsolver++", LinearDDPMScheduler())
    assert sde.config.algorithm_type == "sde-dpmsolver++"
    assert make_sampler("dpmsolver++", sde).config.algorithm_type == "dpmsolver++"


@pytest.mark.parametrize(("steps", "T", "way_out"), [(600, 1000, 500), (59, 1000, 58), (30, 100, 25), (70, 100, 50)])
def test_ddim_refuses_strides_that_leave_noise(steps, T, way_out):
    sampler = make_sampler("ddim", LinearDDPMScheduler(T))
    with pytest.raises(ValueError, match=rf"num_inference_steps={steps}: DDIMScheduler .* use {way_out}, or another"):
        timesteps_of(sampler, steps)
    assert len(timesteps_of(sampler, way_out)) == way_out


def test_ddim_of_leading_steps_is_left_alone():
    assert len(timesteps_of(DDIMScheduler(1000, timestep_spacing="leading"), 600)) == 600
