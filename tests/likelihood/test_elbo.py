"""The evaluated bounds of VAEs, against models whose likelihood is known."""

import math

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal

from hfgen.core.errors import HfgenError
from hfgen.core.media import to_model_range
from hfgen.data.loading import ImagesInMemory
from hfgen.likelihood import vae_bounds
from hfgen.likelihood.elbo import VALUES_AT_ONCE
from hfgen.models import MLPVAE

SIDE, LATENTS, VARIANCE = 4, 3, 0.25
PIXELS = SIDE * SIDE


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return ImagesInMemory(torch.randint(0, 256, (7, 1, SIDE, SIDE), generator=generator).to(torch.uint8))


def linear_gaussian(posterior_shift: float = 0.0, posterior_scale: float = 1.0):
    """x = W z + b + noise with orthogonal columns of W, so that the exact posterior is diagonal, and q is that posterior
    but for a shift of its mean and a scale of its deviation. Returns the model and log p(x), known in closed form."""
    torch.manual_seed(1)
    vae = MLPVAE(1, SIDE, LATENTS, (), likelihood="gaussian", gaussian_variance=VARIANCE).double().eval()
    directions = torch.linalg.qr(torch.randn(PIXELS, LATENTS, dtype=torch.float64))[0]
    lengths = torch.tensor([1.5, 1.0, 0.5], dtype=torch.float64)
    weight, offset = directions * lengths, torch.randn(PIXELS, dtype=torch.float64) * 0.1
    variance = 1 / (1 + lengths**2 / VARIANCE)
    to_mean = variance[:, None] * weight.T / VARIANCE
    encoder, decoder = vae.encoder[-1], vae.decoder[0]
    with torch.no_grad():
        decoder.weight.copy_(weight)
        decoder.bias.copy_(offset)
        encoder.weight.copy_(torch.cat([to_mean, torch.zeros_like(to_mean)]))
        log_variance = variance.log() + 2 * math.log(posterior_scale)
        encoder.bias.copy_(torch.cat([-to_mean @ offset + posterior_shift, log_variance]))
    covariance = weight @ weight.T + VARIANCE * torch.eye(PIXELS, dtype=torch.float64)
    return vae, MultivariateNormal(offset, covariance)


@pytest.fixture
def in_doubles(monkeypatch):
    monkeypatch.setattr("hfgen.likelihood.elbo.to_model_range", lambda images: images.double() / 127.5 - 1)


def exact(distribution, images):
    return -distribution.log_prob((images.images.double() / 127.5 - 1).flatten(1))


def test_with_the_exact_posterior_every_bound_is_the_likelihood(images, in_doubles):
    """log p(x, z) - log q(z|x) is then constant in z: one sample is exact, to float64 rounding of a sum of 16 terms."""
    vae, distribution = linear_gaussian()
    expected = exact(distribution, images)
    for k in (1, 700):
        bounds = vae_bounds(vae, images, num_samples=k)
        torch.testing.assert_close(bounds.values[:, 3], expected, rtol=0, atol=1e-9)
    # the mean of log p(x|z) over 700 samples has an error of its own: 3 latents, standard error about 0.1
    torch.testing.assert_close(bounds.values[:, 2], expected, rtol=0, atol=0.5)


def test_with_another_posterior_the_bounds_lie_above_in_order_and_close_in(images, in_doubles):
    vae, distribution = linear_gaussian(posterior_shift=0.3, posterior_scale=1.4)
    expected = exact(distribution, images).mean().item()
    many = vae_bounds(vae, images, num_samples=20_000, seed=5)
    # the bound is a mean over samples too: 200 seeds of 5 samples have a standard error of about 0.02
    few = sum(vae_bounds(vae, images, num_samples=5, seed=seed).mean("negative_iw_bound") for seed in range(200)) / 200
    assert few < many.mean("negative_elbo")
    assert many.mean("negative_iw_bound") < few - 0.05
    # the bound's gap falls as 1/k (Burda et al. 2016, theorem 1); at 20,000 it and the sampling error are far below this
    assert many.mean("negative_iw_bound") == pytest.approx(expected, abs=0.01)


def test_elbo_is_its_closed_form(images, in_doubles):
    """E_q of a Gaussian log p(x|z) is known: the squared error at the mean, plus the trace of W^T W times q's variance."""
    vae, _ = linear_gaussian(posterior_shift=0.3, posterior_scale=1.4)
    x = images.images.double() / 127.5 - 1
    posterior = vae.encode(x).latent_dist
    spread = (vae.decoder[0].weight.square().sum(0) * posterior.var).sum(1) / (2 * VARIANCE)
    at_mean = Independent(Normal(vae.decode(posterior.mean).sample, VARIANCE**0.5), 3).log_prob(x)
    bounds = vae_bounds(vae, images, num_samples=20_000, seed=2)
    # the deviation of log p(x|z) over z is about 5 nats here: 20,000 samples leave 0.035
    torch.testing.assert_close(bounds.values[:, 0], spread - at_mean, rtol=0, atol=0.15)
    torch.testing.assert_close(bounds.values[:, 2], bounds.values[:, 0] + bounds.values[:, 1])


@pytest.mark.parametrize("likelihood", ["bernoulli", "bernoulli_static", "discretized_logistic", "categorical"])
def test_an_image_has_its_own_noise_whatever_the_batch(images, likelihood):
    torch.manual_seed(0)
    vae = MLPVAE(1, SIDE, LATENTS, (8,), likelihood=likelihood).eval()
    one, three, all_at_once = (vae_bounds(vae, images, num_samples=30, batch_size=n).values for n in (1, 3, 7))
    # float32 products sum in another order in another batch
    torch.testing.assert_close(one, three, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(one, all_at_once, rtol=1e-5, atol=1e-4)
    first = vae_bounds(vae, ImagesInMemory(images.images[:2]), num_samples=30).values
    torch.testing.assert_close(first, all_at_once[:2], rtol=1e-5, atol=1e-4)
    other = vae_bounds(vae, images, num_samples=30, seed=1).values
    assert (other != all_at_once).any()


def test_a_single_sample_is_the_bound_by_hand(images):
    torch.manual_seed(0)
    vae = MLPVAE(1, SIDE, LATENTS, (8,), likelihood="categorical").eval()
    x = to_model_range(images.images)
    means = [
        vae_bounds(vae, images, num_samples=1, seed=s).values[:, 3]
        - vae_bounds(vae, images, num_samples=1, seed=s).values[:, 0]
        for s in range(60)
    ]
    kl = vae.encode(x).latent_dist.kl().double()
    estimate = torch.stack(means)
    error = estimate.std(0) / len(means) ** 0.5
    # -log w = -log p(x|z) + log q - log p, whose second part has the KL for its mean: 7 images, 4.5 standard errors
    assert ((estimate.mean(0) - kl).abs() < 4.5 * error).all()


def test_what_is_decoded_at_once_is_bounded(images, monkeypatch):
    vae = MLPVAE(1, SIDE, LATENTS, (8,), likelihood="bernoulli").eval()
    sizes = []
    decode = vae.decode_outputs
    monkeypatch.setattr(vae, "decode_outputs", lambda z: sizes.append(decode(z).numel()) or decode(z))
    monkeypatch.setitem(VALUES_AT_ONCE, "cpu", 7 * PIXELS * 5)
    vae_bounds(vae, images, num_samples=1200)
    assert max(sizes) <= 7 * PIXELS * 5
    assert sum(sizes) == 1200 * 7 * PIXELS


@pytest.mark.parametrize(("name", "value"), [("num_samples", 0), ("batch_size", 0), ("seed", -1)])
def test_numbers_out_of_range(images, name, value):
    vae = MLPVAE(1, SIDE, LATENTS, ())
    with pytest.raises(HfgenError, match=f"^{name}={value}: use"):
        vae_bounds(vae, images, **{name: value})


def test_no_images():
    with pytest.raises(HfgenError, match="no images to evaluate"):
        vae_bounds(MLPVAE(1, SIDE, LATENTS, ()), ImagesInMemory(torch.empty(0, 1, SIDE, SIDE, dtype=torch.uint8)))
