"""Hierarchical VAEs: the VAE as their one-layer case, their chain by hand, what is stopped of gradients, saving, errors; the
diffusion model as their limit."""

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Normal

from hfgen.core.errors import HfgenError
from hfgen.data.loading import ImagesInMemory
from hfgen.likelihood import exact_vlb, vae_bounds
from hfgen.models import LIKELIHOODS, MLPVAE, modeling_hfgen_mhvae
from hfgen.models.mhvae_presets import MHVAE_PRESETS, MHVAES_FOR, build_mhvae, load_mhvae_config
from hfgen.models.modeling_hfgen_mhvae import (
    MLPMHVAE,
    Bernoulli,
    Categorical,
    ConvMHVAE,
    FusedBernoulli,
    FusedCategorical,
)
from hfgen.objectives import SGVBA, SGVBB, DReG, ImportanceWeighted
from hfgen.process import GaussianProcess, ReverseProcess
from hfgen.process.discretized import discretized_gaussian_nll
from hfgen.process.parameterization import PARAMETERIZATIONS

MODELS = {
    "mlp": (MLPMHVAE, {"sample_size": 8, "latent_sizes": [4, 3, 2], "hidden_sizes": [[7, 5], [6], []]}),
    "mlp skip": (
        MLPMHVAE,
        {"sample_size": 8, "latent_sizes": [4, 2], "hidden_sizes": [[7], [6, 5]], "skip": True, "layer_norm": True},
    ),
    "conv": (ConvMHVAE, {"sample_size": 8, "latent_channels": [2, 3], "block_out_channels": [4, 5]}),
    "conv skip": (
        ConvMHVAE,
        {
            "sample_size": 8,
            "latent_channels": [1, 2, 1],
            "strides": [2, 1, 2],
            "block_out_channels": [4, 4, 4],
            "skip": True,
            "layer_norm": True,
        },
    ),
}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def build(name, **changes):
    """A small model with weights of size 0.3, of convolutions 0.1, so that q depends on x."""
    kind, values = MODELS[name]
    model = kind(**{**values, **changes})
    with torch.no_grad():
        for i, tensor in enumerate((*model.parameters(), model.pixel_mean)):
            tensor.normal_(0, 0.3 if kind is MLPMHVAE else 0.1, generator=seeded(i))
    return model.eval()


def images(model, count=4):
    shape = (count, model.config.in_channels, model.config.sample_size, model.config.sample_size)
    return torch.rand(shape, generator=seeded(1)) * 2 - 1


def noise_for(model, samples=5, count=4):
    return torch.randn(samples, count, sum(model.latent_sizes), generator=seeded(2))


# one layer


def vae_and_chain(**values):
    values = {"sample_size": 8, "activation": "elu", **values}
    vae = MLPVAE(latent_size=3, hidden_sizes=(7, 5), **values)
    chain = MLPMHVAE(latent_sizes=(3,), hidden_sizes=((7, 5),), **values)
    named = {
        k.replace("encoder.", "encoders.0.").replace("decoder.", "decoders.0."): v for k, v in vae.state_dict().items()
    }
    chain.load_state_dict(named)
    return vae, chain


@pytest.mark.parametrize("likelihood", [name for name in LIKELIHOODS if name != "discretized_logistic_rgb"])
def test_of_one_layer_it_is_the_vae(likelihood):
    """Loss, terms and gradients of each objective; float32 sums of 64 pixels in another order."""
    vae, chain = vae_and_chain(likelihood=likelihood, latent_bound=2.0)
    x, noise = images(vae), noise_for(chain)
    x = (
        torch.where(x > 0, 1.0, -1.0)
        if likelihood.startswith("bernoulli")
        else torch.round((x + 1) * 127.5) / 127.5 - 1
    )
    for kind in (SGVBA, SGVBB, ImportanceWeighted, DReG):
        found = []
        for model in (vae, chain):
            model.zero_grad()
            terms = kind(model.likelihood)(model, x, noise)
            terms["loss"].mean().backward()
            found.append([*terms.values(), *(p.grad for p in model.parameters())])
        torch.testing.assert_close(*found, rtol=2e-5, atol=2e-5)


def test_of_one_layer_it_begins_and_is_evaluated_as_the_vae():
    torch.manual_seed(0)
    vae = MLPVAE(sample_size=8, latent_size=3, hidden_sizes=(7, 5))
    torch.manual_seed(0)
    chain = MLPMHVAE(sample_size=8, latent_sizes=(3,), hidden_sizes=((7, 5),))
    assert all(a.equal(b) for a, b in zip(vae.parameters(), chain.parameters(), strict=True))
    data = ImagesInMemory(torch.randint(0, 256, (5, 1, 8, 8), generator=seeded(3)).to(torch.uint8))
    one, other = (vae_bounds(model.eval(), data, num_samples=70) for model in (vae, chain))
    torch.testing.assert_close(one.values, other.values, rtol=1e-6, atol=1e-5)
    assert one.names == other.names == ("reconstruction", "kl", "negative_elbo", "negative_iw_bound")


# the chain


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_what_objectives_get_is_the_chain_by_hand(name):
    model = build(name)
    x, noise = images(model), noise_for(model)
    *found, outputs = model(x, latent_noise=noise)
    parts = noise.split(model.latent_sizes, dim=-1)
    z, expected = None, []
    for layer, part in enumerate(parts, 1):
        q = model.encode(x).latent_dist if layer == 1 else model.posterior(layer, z)
        above = q.mean + q.std * part
        expected += [q.mean, q.logvar, above]
        if layer > 1:
            p = model.prior(layer - 1, above)
            expected += [p.mean, p.logvar]
        else:
            expected_outputs = model.decode_outputs(above)
        z = above
    assert len(found) == len(expected) == 3 + 5 * (len(parts) - 1)
    assert all(a.equal(b) for a, b in zip(found, expected, strict=True))
    assert outputs.equal(expected_outputs)
    assert outputs.shape == (5, 4, model.likelihood.channels, 8, 8)


def numpy_layers(weights, x):
    for i in range(0, len(weights), 2):
        x = x @ weights[i].T + weights[i + 1]
        x = np.tanh(x) if i + 2 < len(weights) else x
    return x


@torch.no_grad()
def test_the_factors_are_their_formula():
    """mean and log variance side by side, of tanh layers in float64; with a skip a linear map is added."""
    model, skipping = build("mlp"), build("mlp skip", layer_norm=False)
    weights = lambda net: [p.double().numpy() for p in net.parameters()]  # noqa: E731
    z = torch.randn(6, 4, generator=seeded(4))
    q = model.posterior(2, z)
    expected = numpy_layers(weights(model.encoders[1]), z.double().numpy())
    # float32 sums of 7 products of size 0.3
    np.testing.assert_allclose(torch.cat([q.mean, q.logvar], 1), expected, rtol=1e-5, atol=1e-5)
    p = model.prior(1, z[:, :3])
    expected = numpy_layers(weights(model.decoders[1]), z[:, :3].double().numpy())
    np.testing.assert_allclose(torch.cat([p.mean, p.logvar], 1), expected, rtol=1e-5, atol=1e-5)
    q = skipping.posterior(2, z)
    *network, linear = weights(skipping.encoders[1])
    expected = numpy_layers(network, z.double().numpy()) + z.double().numpy() @ linear.T
    np.testing.assert_allclose(torch.cat([q.mean, q.logvar], 1), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_rows_and_samples_do_not_see_each_other(name):
    model = build(name)
    x, noise = images(model), noise_for(model)
    whole = model(x, latent_noise=noise)
    part = model(x[1:2], latent_noise=noise[2:3, 1:2])
    for one, other in zip(whole, part, strict=True):
        shown = one[1:2] if one.ndim == 2 else one[2:3, 1:2]
        torch.testing.assert_close(shown, other, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_bound_on_means_and_log_variances_holds_in_each_layer():
    model = build("mlp", latent_bound=0.5)
    for encoder in model.encoders:
        encoder[-1].bias += 10
    mean, logvar, *rest, _ = model(images(model), latent_noise=noise_for(model))
    for moments in ((mean, logvar), (rest[1], rest[2]), (rest[6], rest[7])):
        assert moments[0].abs().max() <= 0.5
        assert moments[1].max() <= 1


# gradients


def reached(model, tensor):
    """Which encoders and decoders a scalar of `tensor` has a gradient in, by layer."""
    names = [(kind, i) for kind in ("encoders", "decoders") for i in range(len(model.latent_sizes))]
    weights = [list(getattr(model, kind)[i].parameters()) for kind, i in names]
    found = set()
    for name, part in zip(names, weights, strict=True):
        gradients = torch.autograd.grad(tensor.square().sum(), part, retain_graph=True, allow_unused=True)
        if any(g is not None and g.ne(0).any() for g in gradients):
            found.add((name[0], name[1] + 1))
    return found


@pytest.mark.parametrize("name", ["mlp", "conv skip"])
def test_doubly_reparameterised_moments_know_their_weights_as_constants(name):
    model = build(name)
    x, noise = images(model), noise_for(model)
    plain, doubly = (model(x, latent_noise=noise, reparameterize=how) for how in (True, "doubly"))
    torch.testing.assert_close(plain, doubly)
    mean_2, z_2 = doubly[3], doubly[5]
    assert reached(model, plain[3]) == {("encoders", 1), ("encoders", 2)}
    assert reached(model, mean_2) == {("encoders", 1)}
    assert reached(model, z_2) == {("encoders", 1), ("encoders", 2)}
    # of the third layer too: the second's weights through z_2 alone
    assert reached(model, doubly[8]) == {("encoders", 1), ("encoders", 2)}


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_without_reparameterisation_samples_carry_no_gradient(name):
    model = build(name)
    x, noise = images(model), noise_for(model)
    *moments, outputs = model(x, latent_noise=noise, reparameterize=False)
    assert not moments[2].requires_grad
    assert reached(model, outputs) == {("decoders", 1)}
    assert reached(model, moments[3]) == {("encoders", 2)}


def test_the_fused_bernoulli_is_the_plain_one():
    """Values, and gradients by autograd of the plain formula, in float64; single samples too."""
    logits = (3 * torch.randn(5, 4, 1, 8, 8, generator=seeded(5), dtype=torch.float64)).requires_grad_()
    x = torch.rand(4, 1, 8, 8, generator=seeded(6), dtype=torch.float64) * 2 - 1
    weight = torch.rand(5, 4, generator=seeded(7), dtype=torch.float64)
    found = []
    for likelihood in (Bernoulli(), FusedBernoulli()):
        log_prob = likelihood.log_prob(x, logits)
        found.append(
            (log_prob, torch.autograd.grad((weight * log_prob).sum(), logits)[0], likelihood.log_prob(x, logits[0]))
        )
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)
    extreme = torch.tensor([-1e4, -40.0, 0.0, 40.0, 1e4]).view(5, 1, 1, 1, 1)
    for pixel in (-1.0, 1.0):
        one, other = (k.log_prob(torch.full((1, 1, 1, 1), pixel), extreme) for k in (Bernoulli(), FusedBernoulli()))
        torch.testing.assert_close(one, other)


def test_the_fused_categorical_is_the_plain_one():
    """Values and gradients of two channels in float64; single samples too."""
    logits = (3 * torch.randn(3, 4, 512, 2, 3, generator=seeded(5), dtype=torch.float64)).requires_grad_()
    x = torch.randint(0, 256, (4, 2, 2, 3), generator=seeded(6)).double() / 127.5 - 1
    weight = torch.rand(3, 4, generator=seeded(7), dtype=torch.float64)
    found = []
    for likelihood in (Categorical(), FusedCategorical()):
        log_prob = likelihood.log_prob(x, logits)
        found.append(
            (log_prob, torch.autograd.grad((weight * log_prob).sum(), logits)[0], likelihood.log_prob(x, logits[0]))
        )
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


# evaluation, layer by layer


def test_the_evaluated_terms_are_those_by_torch_distributions():
    model = build("mlp", likelihood="discretized_logistic")
    data = ImagesInMemory(torch.randint(0, 256, (6, 1, 8, 8), generator=seeded(8)).to(torch.uint8))
    x = data.images.float() / 127.5 - 1
    bounds = vae_bounds(model, data, num_samples=1500, batch_size=3)
    assert bounds.names[4:] == ("kl_1", "kl_2", "kl_3")
    values = dict(zip(bounds.names, bounds.values.T, strict=True))
    torch.testing.assert_close(values["kl"], values["kl_1"] + values["kl_2"] + values["kl_3"])
    torch.testing.assert_close(values["negative_elbo"], values["reconstruction"] + values["kl"])
    with torch.no_grad():
        *moments, outputs = model(x, latent_noise=noise_for(model, 1500, 6))
        q = [moments[:3], *(moments[i : i + 3] for i in (3, 8))]
        p = [(moments[6], moments[7]), (moments[11], moments[12]), (torch.zeros(()), torch.zeros(()))]
        ratios = [
            (Normal(m, (v / 2).exp()).log_prob(z) - Normal(a, (b / 2).exp()).log_prob(z)).sum(-1)
            for (m, v, z), (a, b) in zip(q, p, strict=True)
        ]
        log_likelihood = model.likelihood.log_prob(x, outputs)
        weights = log_likelihood - sum(ratios)
    # other noise, as many samples: five standard errors of either
    for name, mine in (("reconstruction", -log_likelihood), *zip(bounds.names[4:], ratios, strict=True)):
        error = mine.std(0) / math.sqrt(1500)
        assert ((values[name] - mine.mean(0)).abs() < 7.1 * error).all()
    mine = math.log(1500) - weights.double().logsumexp(0)
    error = (weights - weights.amax(0)).exp().std(0) / (weights - weights.amax(0)).exp().mean(0) / math.sqrt(1500)
    assert ((values["negative_iw_bound"] - mine).abs() < 7.1 * error).all()
    assert bounds.latent_sizes == (4, 3, 2)
    means = [q[0][0], *(m.mean(0) for m, _, _ in q[1:])]
    torch.testing.assert_close(
        bounds.unit_variances.float(), torch.cat(means, 1).var(0, correction=0), rtol=0.2, atol=2e-3
    )


def test_units_that_do_not_know_the_image_are_not_active():
    model = build("mlp", hidden_sizes=[[], [], []])
    with torch.no_grad():
        model.encoders[0][-1].weight[1] = 0  # the mean of the second latent of z_1
        model.encoders[1][-1].weight[0] = 0  # of the first of z_2
        model.encoders[2][-1].weight.zero_()
    data = ImagesInMemory(torch.randint(0, 256, (40, 1, 8, 8), generator=seeded(9)).to(torch.uint8))
    bounds = vae_bounds(
        model, data, num_samples=2000
    )  # the means of z_2 vary much with z_1, by chance in some images more
    assert bounds.active_units == (3, 2, 0)


@pytest.mark.parametrize("samples", [2, 5])
def test_few_samples_make_no_unit_active(samples):
    """q(z_1|x) is N(0, I) of any image; means of the second layer, which follow z_1, then differ by what was drawn alone.

    That has a variance of 0.25 over the samples. Taken off over 2,000 images it leaves 0.25 / sqrt(2000) at most.
    """
    model = build("mlp", hidden_sizes=[[], [], []])
    with torch.no_grad():
        for network in model.encoders:
            network[-1].weight.zero_()
            network[-1].bias.zero_()
        model.encoders[1][-1].weight[:3, :3] = 0.5 * torch.eye(3)
    data = ImagesInMemory(torch.zeros(2000, 1, 8, 8, dtype=torch.uint8))
    bounds = vae_bounds(model, data, num_samples=samples, batch_size=500)
    assert bounds.unit_variances[4:7].max() < 0.25 / math.sqrt(2000)
    alone = vae_bounds(model, data, num_samples=1, batch_size=500)
    assert alone.active_units == (0, None, None)


@pytest.mark.parametrize("name", MODELS)
def test_an_image_has_its_own_noise_whatever_the_batch(name):
    model = build(name)
    data = ImagesInMemory(torch.randint(0, 256, (5, 1, 8, 8), generator=seeded(10)).to(torch.uint8))
    one, all_at_once = (vae_bounds(model, data, num_samples=30, batch_size=n).values for n in (1, 5))
    torch.testing.assert_close(one, all_at_once, rtol=1e-5, atol=1e-3)


# saving


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_save_and_load(tmp_path, name):
    model = build(name, likelihood="gaussian")
    model.save_pretrained(tmp_path)
    code = "modeling_hfgen_mhvae.py"
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors", code}
    assert (tmp_path / code).read_text() == Path(modeling_hfgen_mhvae.__file__).read_text()
    loaded = type(model).from_pretrained(tmp_path)
    x, noise = images(model), noise_for(model)
    assert all(a.equal(b) for a, b in zip(loaded(x, latent_noise=noise), model(x, latent_noise=noise), strict=True))
    assert loaded(x).sample.equal(model.decode(model.encode(x).latent_dist.mode()).sample)


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
import modeling_hfgen_mhvae as m
assert m.__file__.startswith(sys.argv[1]), m.__file__
for kind in (m.MLPMHVAE, m.ConvMHVAE):
    model = kind(sample_size=8)
    model.save_pretrained(sys.argv[1] + "/saved")
    loaded = kind.from_pretrained(sys.argv[1] + "/saved")
    x = torch.zeros(2, 1, 8, 8)
    *_, outputs = loaded(x, latent_noise=torch.zeros(3, 2, sum(model.latent_sizes)), reparameterize="doubly")
    assert loaded.likelihood.log_prob(torch.ones_like(x), outputs).isfinite().all()
try:
    import hfgen.core.errors
except ModuleNotFoundError:
    print("no hfgen")
"""


def test_the_file_works_without_hfgen(tmp_path, stranger):
    shutil.copy(modeling_hfgen_mhvae.__file__, tmp_path)
    assert stranger.run(SCRIPT, tmp_path, token=None).check().out.strip() == "no hfgen"


# presets and errors


@pytest.mark.parametrize("name", MHVAE_PRESETS)
@torch.no_grad()
def test_presets_encode_and_decode(name):
    made = MHVAES_FOR[name]
    model = build_mhvae(load_mhvae_config(name), made.side, made.channels).eval()
    # what a checkpoint may weigh
    assert 4 * sum(p.numel() for p in model.parameters()) < 3e6
    assert model(images(model, 2)).sample.shape == (2, made.channels, made.side, made.side)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (MLPMHVAE, {"latent_sizes": []}, r"latent_sizes=\[\]: write a number for each layer, one layer or more"),
        (MLPMHVAE, {"latent_sizes": [3, 0]}, r"latent_sizes=\[3, 0\]"),
        (MLPMHVAE, {"latent_sizes": [3]}, r"hidden_sizes=.*: write one list for each of the 1 layers"),
        (MLPMHVAE, {"hidden_sizes": [[4], [0]]}, r"hidden_sizes=\[\[4\], \[0\]\]: each at least 1"),
        (MLPMHVAE, {"likelihood": "beta"}, "likelihood='beta': choose one of bernoulli"),
        (MLPMHVAE, {"likelihood": "discretized_logistic_rgb"}, "is one of 3 channels, and in_channels=1"),
        (MLPMHVAE, {"activation": "sine"}, "activation='sine'"),
        (MLPMHVAE, {"latent_bound": 0}, "latent_bound=0"),
        (MLPMHVAE, {"gaussian_variance": 1.0}, "gaussian_variance=1.0"),
        (MLPMHVAE, {"sample_size": 0}, "sample_size=0"),
        (ConvMHVAE, {"latent_channels": []}, r"latent_channels=\[\]: write a number for each layer"),
        (ConvMHVAE, {"strides": [2]}, r"strides=\[2\]: write a number for each of the 2 layers"),
        (ConvMHVAE, {"block_out_channels": [8, 0]}, r"block_out_channels=\[8, 0\]"),
        (ConvMHVAE, {"fine_channels": 0}, "fine_channels=0"),
        (ConvMHVAE, {"strides": [2, 3]}, r"sample_size=28 is not divisible by 6, the product of strides=\[2, 3\]"),
    ],
)
def test_bad_values_are_refused_in_a_line(kind, values, message):
    with pytest.raises(ValueError, match=message) as error:
        kind(**values)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.encode(torch.zeros(2, 1, 9, 9)), r"images of shape \(2, 1, 9, 9\)"),
        (lambda m: m.decode_outputs(torch.zeros(2, 3)), r"latents of shape \(2, 3\): the first layer .* \(B, 4\)"),
        (
            lambda m: m(images(m), latent_noise=torch.zeros(1, 4, 8)),
            r"latent_noise of shape \(1, 4, 8\): .* \(L, 4, 9\)",
        ),
    ],
)
def test_bad_calls_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(build("mlp"))


def test_a_config_of_another_class_is_refused(tmp_path):
    (tmp_path / "vae.json").write_text(json.dumps({"_class_name": "MLPVAE"}))
    with pytest.raises(HfgenError, match="_class_name='MLPVAE': use one of MLPMHVAE, ConvMHVAE"):
        load_mhvae_config(str(tmp_path / "vae.json"))


# the ladder to diffusion


class Denoiser(nn.Module):
    """A small network of x_t and t that predicts the noise, in float64; as `UNet2DModel` is called."""

    dtype, device = torch.float64, torch.device("cpu")

    def __init__(self, pixels):
        super().__init__()
        self.first = nn.Linear(pixels + 1, 6, dtype=torch.float64)
        self.last = nn.Linear(6, pixels, dtype=torch.float64)

    def forward(self, x_t, timesteps):
        flat = torch.cat([x_t.flatten(1), timesteps[:, None].double() / 3 - 0.5], 1)
        return SimpleNamespace(sample=self.last(torch.tanh(self.first(flat))).view_as(x_t))


class ReverseStep(nn.Module):
    """Mean and log variance of p(x_{t-1}|x_t) by the noise that the network predicts: Ho et al. 2020, equation 11."""

    def __init__(self, denoiser, process, t):
        super().__init__()
        self.denoiser, self.process, self.t = denoiser, process, t

    def forward(self, rows):
        side = math.isqrt(rows.shape[1])
        timesteps = torch.full((len(rows),), self.t - 1)
        eps = self.denoiser(rows.view(-1, 1, side, side), timesteps).sample.flatten(1)
        forward = self.process.forward
        beta, sigma, alpha = (v[self.t - 1] for v in (forward.beta, forward.sigma, forward.alpha))
        mean = (rows - beta / sigma * eps) / alpha.sqrt()
        return torch.cat([mean, self.process.fixed_log_variance()[self.t - 1].expand_as(mean)], 1)


class DiscretizedGaussian:
    """p(x|z_1) of a diffusion model's last step, by the mean and the log variance that `ReverseStep` puts out."""

    channels, binarization = 2, None

    def log_prob(self, x, outputs):
        mean, log_variance = outputs.unflatten(-1, (2, *x.shape[1:])).unbind(-4)
        return -discretized_gaussian_nll(x, mean, log_variance).sum((-3, -2, -1))


def diffusion(side, variance_type="fixed_large", steps=3):
    """A DDPM of a few steps, and an MHVAE object with its three restrictions: dimension, fixed linear Gaussian q, nearly N(0, I)."""
    torch.manual_seed(0)
    pixels, denoiser, eye = side**2, Denoiser(side**2), torch.eye(side**2, dtype=torch.float64)
    forward = GaussianProcess.from_betas(torch.tensor([0.02, 0.4, 0.9], dtype=torch.float64)[:steps])
    process = ReverseProcess(
        forward=forward, parameterization=PARAMETERIZATIONS["epsilon"], variance_type=variance_type
    )
    chain = MLPMHVAE(sample_size=side, latent_sizes=(pixels,) * steps, hidden_sizes=((),) * steps).double()
    with torch.no_grad():
        for encoder, beta in zip(chain.encoders, forward.beta, strict=True):
            encoder[-1].weight.copy_(torch.cat([(1 - beta).sqrt() * eye, 0 * eye]))
            encoder[-1].bias[pixels:] = beta.log()
            encoder[-1].bias[:pixels] = 0
    chain.decoders = nn.ModuleList(ReverseStep(denoiser, process, t) for t in range(1, steps + 1))
    chain.likelihood = DiscretizedGaussian()
    return denoiser, process, chain.requires_grad_(False)


def gauss_hermite(dimensions, nodes):
    places, weights = np.polynomial.hermite_e.hermegauss(nodes)
    places, weights = torch.tensor(places), torch.tensor(weights / weights.sum())
    grid = torch.cartesian_prod(*[places] * dimensions).view(-1, dimensions)
    return grid, torch.cartesian_prod(*[weights] * dimensions).view(-1, dimensions).prod(1)


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
def test_with_three_restrictions_it_has_the_bound_of_a_diffusion_model(variance_type):
    """In expectation, by quadrature over the noises, of images of one pixel: the chain's samples against the KLs of the posteriors."""
    denoiser, process, chain = diffusion(1, variance_type)
    x = torch.tensor([0.0, 93.0, 255.0], dtype=torch.float64).view(3, 1, 1, 1) / 127.5 - 1
    noise, weight = gauss_hermite(3, 24)
    terms = SGVBB(chain.likelihood)(chain, x.repeat_interleave(len(noise), 0), noise.repeat(3, 1)[None])
    found = (terms["loss"].view(3, -1) * weight).sum(1)
    noise, weight = gauss_hermite(1, 24)
    expected = process.forward.prior_kl(x)
    for t in range(3):
        rows, noises = x.repeat_interleave(24, 0), noise.repeat(3, 1).view(-1, 1, 1, 1)
        with torch.no_grad():
            parts = process.terms(denoiser, rows, noises, torch.full((len(rows),), t))
        expected = expected + (parts.view(3, -1) * weight).sum(1)
    # the network bends: 24 nodes leave 2e-8 of it, 18 leave 4e-7
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


def test_its_evaluated_bound_is_that_of_a_diffusion_model(monkeypatch):
    """Of 4 pixels, by hfgen's own evaluations of either kind, within the errors of both."""
    denoiser, process, chain = diffusion(2)
    monkeypatch.setattr("hfgen.likelihood.elbo.to_model_range", lambda pixels: pixels.double() / 127.5 - 1)
    one = torch.randint(0, 256, (1, 1, 2, 2), generator=seeded(11)).to(torch.uint8)
    data = ImagesInMemory(one.repeat(400, 1, 1, 1))
    exact = exact_vlb(denoiser, process, data)
    bounds = vae_bounds(chain, data, num_samples=100)
    error = math.hypot(exact.total.standard_error, bounds.standard_error("negative_elbo"))
    assert abs(exact.total.mean - bounds.mean("negative_elbo")) < 4.5 * error
    assert error < 1
    assert bounds.mean("negative_iw_bound") < bounds.mean("negative_elbo") - 5 * error


def test_sample_by_sample_its_terms_are_those_of_the_posteriors():
    """log q(z_{1:T}|x) - log p(z_{1:T}) - log p(x|z_1) by Bayes' rule, of 16 pixels: the bound of Ho et al. 2020, equation 5."""
    denoiser, process, chain = diffusion(4)
    x = torch.randint(0, 256, (5, 1, 4, 4), generator=seeded(12)).double() / 127.5 - 1
    noise = torch.randn(1, 5, 48, generator=seeded(13), dtype=torch.float64)
    loss = SGVBA(chain.likelihood)(chain, x, noise)["loss"]
    *moments, _ = chain(x, latent_noise=noise)
    z = [part[0].view_as(x) for part in (moments[2], moments[5], moments[10])]
    forward = process.forward
    last = Normal(forward.signal[-1] * x, forward.sigma[-1])
    expected = (last.log_prob(z[2]) - Normal(0.0, 1.0).log_prob(z[2])).flatten(1).sum(1)
    for t in (2, 3):
        timesteps = torch.full((5,), t - 1)
        mean, variance = forward.posterior(x, z[t - 1], timesteps)
        p = ReverseStep(denoiser, process, t)(z[t - 1].flatten(1)).view(5, 2, 1, 4, 4)
        q = Normal(mean, variance.sqrt()).log_prob(z[t - 2])
        expected += (q - Normal(p[:, 0], (p[:, 1] / 2).exp()).log_prob(z[t - 2])).flatten(1).sum(1)
    # the noise of x_1, as L_0 takes it
    first = (z[0] - forward.signal[0] * x) / forward.sigma[0]
    expected += process.terms(denoiser, x, first, torch.zeros(5, dtype=torch.int64))
    # float64 sums of 48 terms, variances down to 0.02
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-9)
