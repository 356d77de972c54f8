"""The bound of a variational diffusion model, and the one by pairs, against closed forms and the bound of a chain."""

import math
from types import SimpleNamespace

import pytest
import torch

from hfgen.core.errors import HfgenError
from hfgen.core.media import to_model_range
from hfgen.core.resume import Resumable
from hfgen.likelihood.pairs import independent_pair_terms, last_pair, pair_terms
from hfgen.likelihood.vdm import vdm_bound
from hfgen.models.modeling_hfgen_vdm import NoiseSchedule
from hfgen.process import PARAMETERIZATIONS, GaussianProcess, ReverseProcess, append_dims, values_at
from hfgen.process.variational import diffuse, noise_error, prior_nats, step_times, step_weight


class Kept:
    """Images in memory, as the data room gives them."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def batches(self, rows):
        return (self.images[row] for row in rows)


def images(count=12, side=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Kept(torch.randint(0, 256, (count, 1, side, side), generator=generator, dtype=torch.uint8))


def rough(z, gamma):
    """A network that is far from the best."""
    return torch.tanh(2 * z) * append_dims(0.3 + torch.sigmoid(gamma + 4), z).to(z)


def bent(seed=1, **ends):
    torch.manual_seed(seed)
    schedule = NoiseSchedule("network", features=32, **ends)
    schedule.l3.data += torch.rand(32) * 3 * (schedule.l2_bias > 0)
    return schedule


def test_linear_gaussian_data_have_their_known_likelihood():
    """Of the best denoiser of N(0, spread^2) prior and diffusion are KL(q(z_0 | f) || p(z_0)), p(z_0) a Gaussian, for any f.

    The whole is above the likelihood of the rounded values, as this denoiser does not know that they are rounded.
    """
    spread = 0.25
    generator = torch.Generator().manual_seed(0)
    f = spread * torch.randn(600, 1, 4, 4, generator=generator, dtype=torch.float64)
    values = (f * 128 + 127.5).round().clamp(0, 255)

    def denoiser(z, gamma):
        alpha_squared, sigma_squared = (append_dims(torch.sigmoid(s * gamma), z) for s in (-1, 1))
        return z * sigma_squared.sqrt() / (alpha_squared * spread**2 + sigma_squared)

    bound = vdm_bound(denoiser, bent(gamma_max=9.0), Kept(values.to(torch.uint8)), evaluations=600 * 64)
    low = bent(gamma_max=9.0).ends()[0]
    alpha_squared, sigma_squared = torch.sigmoid(-low), torch.sigmoid(low)
    rounded, variance = (values - 127.5) / 128, alpha_squared * spread**2 + sigma_squared
    ratio = (sigma_squared + alpha_squared * rounded.square()) / variance
    kl = 0.5 * (ratio - 1 - (sigma_squared / variance).log()).flatten(1).sum(1)
    error = bound.diffusion.standard_error
    assert bound.prior.mean + bound.diffusion.mean == pytest.approx(kl.mean().item(), abs=3 * error)
    assert error < 0.01 * kl.mean()
    edges = (torch.arange(257, dtype=torch.float64) - 128) / 128
    mass = torch.distributions.Normal(0.0, spread).cdf(edges).diff()
    nll = -mass[values.long()].log().flatten(1).sum(1)
    gap = (bound.total.mean - nll.mean().item()) / 16 / math.log(2)
    assert 0 < gap < 0.6  # bits/dim, of a noise that is a sixth of a bin


def test_the_bound_without_a_quantised_decoder_is_the_density_of_a_gaussian():
    """Exactly: prior, diffusion and the Gaussian density of z_0 given x, by quadrature in gamma."""
    spread, low, high = 0.5, -6.0, 6.0
    gamma = torch.linspace(low, high, 200_001, dtype=torch.float64)
    alpha_squared, sigma_squared = torch.sigmoid(-gamma), torch.sigmoid(gamma)
    # E ||eps - eps_hat||^2 of the best denoiser, of one dimension
    error = alpha_squared * spread**2 / (alpha_squared * spread**2 + sigma_squared)
    diffusion = 0.5 * torch.trapezoid(error, gamma).item()
    f = spread * torch.randn(4000, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(f.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    t = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    drawn = low + (high - low) * t
    weights = append_dims(torch.sigmoid(drawn).sqrt() / (torch.sigmoid(-drawn) * spread**2 + torch.sigmoid(drawn)), f)
    output = weights * diffuse(f, noise, drawn)
    found = 0.5 * (high - low) * noise_error(output, f, noise, drawn, "epsilon") / 4
    assert found.mean().item() == pytest.approx(diffusion, abs=4 * found.std().item() / math.sqrt(len(found)))


@pytest.mark.parametrize("num_steps", [None, 7])
def test_it_does_not_depend_on_batches(num_steps):
    whole, parts = (
        vdm_bound(rough, bent(), images(), num_steps=num_steps, evaluations=60, batch_size=size) for size in (64, 3)
    )
    assert whole.evaluations == 60
    for name in ("total", "prior", "reconstruction", "diffusion"):
        assert getattr(whole, name).mean == pytest.approx(getattr(parts, name).mean, rel=1e-6)
    torch.testing.assert_close(whole.draws, parts.draws)
    assert whole.total.mean == pytest.approx(
        whole.prior.mean + whole.reconstruction.mean + whole.diffusion.mean, rel=1e-9
    )


def test_discrete_bounds_fall_to_the_continuous_one():
    """For the best denoiser more steps are never worse; the limit is that of continuous time."""
    schedule, data = NoiseSchedule("fixed"), images(24)
    arguments = {"evaluations": 24 * 256, "seed": 3}

    def denoiser(z, gamma):
        alpha_squared, sigma_squared = (append_dims(torch.sigmoid(s * gamma), z) for s in (-1, 1))
        return z * sigma_squared.sqrt() / (alpha_squared / 3 + sigma_squared)

    limit = vdm_bound(denoiser, schedule, data, **arguments).diffusion.mean
    found = [vdm_bound(denoiser, schedule, data, num_steps=T, **arguments).diffusion.mean for T in (8, 32, 128, 2048)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 1.1 * limit
    assert found[-1] == pytest.approx(limit, rel=0.01)


def test_the_shape_between_the_ends_changes_the_deviation_alone():
    bounds = [vdm_bound(rough, schedule, images(40), evaluations=40 * 100) for schedule in (bent(1), bent(2))]
    one, other = (bound.diffusion for bound in bounds)
    # the same images: what differs is the noise of the estimate
    assert one.mean == pytest.approx(other.mean, rel=0.02)
    assert abs(bounds[0].deviation / bounds[1].deviation - 1) > 0.01


def test_v_is_the_same_bound():
    schedule = bent()

    def in_v(z, gamma):
        alpha, sigma = (append_dims(torch.sigmoid(s * gamma.double()).sqrt(), z) for s in (-1, 1))
        return (rough(z, gamma).double() - sigma * z) / alpha

    of_epsilon = vdm_bound(rough, schedule, images(), evaluations=120)
    of_v = vdm_bound(in_v, schedule, images(), evaluations=120, prediction_type="v_prediction")
    assert of_v.diffusion.mean == pytest.approx(of_epsilon.diffusion.mean, rel=1e-5)


@pytest.mark.parametrize("variance", ["fixed_small"])
def test_a_chain_of_betas_written_as_gamma_has_the_terms_of_ho_et_al(variance):
    """L_{t-1} and L_T of `ReverseProcess` are the weights of gamma times the same error."""
    T = 20
    forward = GaussianProcess.from_betas(torch.linspace(1e-3, 0.3, T).double())
    process = ReverseProcess(forward=forward, parameterization=PARAMETERIZATIONS["epsilon"], variance_type=variance)
    x = to_model_range(images(3).images).double()
    noise = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def model(x_t, timesteps):
        return SimpleNamespace(sample=rough(x_t, forward.gamma[timesteps]))

    total, written = 0.0, 0.0
    for t in range(1, T):
        timesteps = torch.full((3,), t)
        expected = process.terms(model, x, noise, timesteps)
        gamma_s, gamma_t = forward.gamma[t - 1], forward.gamma[t]
        # a chain from gamma(0) = gamma_1 to gamma(1) = gamma_T has T - 1 steps, each with the chance 1 / (T - 1)
        weight = step_weight(gamma_s, gamma_t, T - 1) / (T - 1)
        gamma = gamma_t.expand(3)
        found = weight * noise_error(rough(diffuse(x, noise, gamma), gamma), x, noise, gamma, "epsilon")
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        total, written = total + expected, written + found
    torch.testing.assert_close(prior_nats(x, forward.gamma[-1]), forward.prior_kl(x), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(total, written)


def test_steps_share_out_the_times():
    s, t = step_times(torch.tensor([0.0, 0.24, 0.25, 0.999999999]).double(), 4)
    assert s.tolist() == [0, 0, 0.25, 0.75]
    assert t.tolist() == [0.25, 0.25, 0.5, 1]


def test_it_goes_on_where_it_was_broken_off(tmp_path, monkeypatch):
    monkeypatch.setattr("hfgen.likelihood.vdm.SAVE_SECONDS", -1)
    whole = vdm_bound(rough, bent(), images(), evaluations=48, batch_size=8)
    calls = 0

    def breaking(z, gamma):
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return rough(z, gamma)

    with pytest.raises(KeyboardInterrupt):
        vdm_bound(breaking, bent(), images(), evaluations=48, batch_size=8, resumable=Resumable(tmp_path, {"a": 1}))
    assert (tmp_path / "vdm.safetensors").is_file()
    resumed = vdm_bound(rough, bent(), images(), evaluations=48, batch_size=8, resumable=Resumable(tmp_path, {"a": 1}))
    assert resumed.total == whole.total
    assert torch.equal(resumed.draws, whole.draws)
    torch.testing.assert_close(resumed.curve, whole.curve, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_steps": 0}, "num_steps=0: use 1 or more"),
        ({"evaluations": 0}, "evaluations=0"),
        ({"images": Kept(torch.zeros(2, 1, 4, 4))}, r"images of torch.float32.*256 values"),
        ({"images": Kept(torch.zeros(0, 1, 4, 4, dtype=torch.uint8))}, "there are no images"),
    ],
)
def test_bad_input_is_one_line(arguments, words):
    with pytest.raises(HfgenError, match=words):
        vdm_bound(rough, bent(), **{"images": images(), **arguments})


# -- the bound by pairs


def test_pairs_have_the_value_of_posteriors_and_the_familiar_kl_is_more():
    forward = GaussianProcess.from_betas(torch.tensor([0.02, 0.1, 0.3, 0.6]).double())
    process = ReverseProcess(forward=forward, parameterization=PARAMETERIZATIONS["epsilon"])

    def model(x_t, timesteps):
        return SimpleNamespace(sample=0.8 * x_t * values_at(forward.sigma, timesteps, x_t))

    count, generator = 40_000, torch.Generator().manual_seed(0)
    x_0 = to_model_range(torch.tensor([100, 30, 200, 128], dtype=torch.uint8)).double().view(1, 1, 2, 2)
    x_0 = x_0.expand(count, 1, 2, 2)

    def noise(*more):
        return torch.randn(*more, count, 1, 2, 2, generator=generator, dtype=torch.float64)

    posteriors, pairs, independent = [forward.prior_kl(x_0)], [last_pair(process, x_0, noise())], []
    for t in range(4):
        timesteps = torch.full((count,), t)
        posteriors.append(process.terms(model, x_0, noise(), timesteps))
        drawn = noise(2)
        pairs.append(pair_terms(model, process, x_0, drawn, timesteps))
        if t:
            independent.append(independent_pair_terms(model, process, x_0, drawn, timesteps) - pairs[-1])
    totals = [
        (sum(p.mean().item() for p in parts), sum(p.var().item() for p in parts)) for parts in (posteriors, pairs)
    ]
    error = math.sqrt((totals[0][1] + totals[1][1]) / count)
    assert totals[0][0] == pytest.approx(totals[1][0], abs=4 * error)
    assert error < 0.002 * totals[0][0]
    assert sum(part.mean().item() for part in independent) > 5


def test_pairs_need_a_fixed_variance():
    forward = GaussianProcess.from_betas(torch.tensor([0.1, 0.3]).double())
    process = ReverseProcess(
        forward=forward, parameterization=PARAMETERIZATIONS["epsilon"], variance_type="learned_range"
    )
    with pytest.raises(ValueError, match="learned_range"):
        pair_terms(None, process, torch.zeros(1, 1, 2, 2), torch.zeros(2, 1, 1, 2, 2), torch.zeros(1).long())
