"""The bounds on log p(x) and their gradients, on a linear Gaussian model whose log p(x) and posterior are known."""

import itertools
import math

import pytest
import torch
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal, kl_divergence
from torch.func import functional_call, grad, vmap

from hfgen.models import MLPVAE
from hfgen.objectives import SGVBA, SGVBB, ImportanceWeighted, ScoreFunction, kl_weight

PIXELS, LATENTS, VARIANCE = 9, 2, 0.3
BOUNDS = [SGVBA, SGVBB, ImportanceWeighted, ScoreFunction]
WEIGHTED = [SGVBA, SGVBB, ScoreFunction]
# of exact equalities in float64: sums of some tens of terms of size 1 to 100
EXACT = {"rtol": 1e-11, "atol": 1e-11}


def normal(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Linear:
    """x = b + W z + noise of variance s2 in float64, W with orthogonal columns: the posterior of z is diagonal.

    log p(x) = N(x; b, W W^T + s2 I); p(z|x) = N(S W^T (x - b) / s2, S), S = (I + W^T W / s2)^-1. q is the posterior
    or, with `off` > 0, that far from it in each of the encoder's weights.
    """

    def __init__(self, off=0.0):
        self.w = torch.linalg.qr(normal(PIXELS, LATENTS, seed=0))[0] * torch.tensor([1.2, 0.6], dtype=torch.float64)
        self.b = 0.5 * normal(PIXELS, seed=1)
        self.model = MLPVAE(
            sample_size=3, latent_size=LATENTS, hidden_sizes=(), likelihood="gaussian", gaussian_variance=VARIANCE
        ).double()
        variance = 1 / (1 + self.w.square().sum(0) / VARIANCE)
        slope = variance[:, None] * self.w.T / VARIANCE
        with torch.no_grad():
            pixel_mean = 0.3 * normal(PIXELS, seed=2)
            self.model.pixel_mean.copy_(pixel_mean.view(1, 3, 3))
            self.decoder.weight.copy_(self.w)
            self.decoder.bias.copy_(self.b)
            self.encoder.weight.copy_(torch.cat([slope, torch.zeros_like(slope)]))
            self.encoder.bias.copy_(torch.cat([slope @ (pixel_mean - self.b), variance.log()]))
            self.encoder.weight.add_(off * 0.1 * normal(2 * LATENTS, PIXELS, seed=3))
            self.encoder.bias.add_(off * 0.5 * normal(2 * LATENTS, seed=4))

    @property
    def encoder(self):
        return self.model.encoder[1]

    @property
    def decoder(self):
        return self.model.decoder[0]

    def images(self, count=3):
        """(count, 1, 3, 3), drawn from p(x)"""
        flat = self.b + normal(count, LATENTS, seed=5) @ self.w.T + math.sqrt(VARIANCE) * normal(count, PIXELS, seed=6)
        return flat.view(count, 1, 3, 3)

    def log_p(self, x):
        covariance = self.w @ self.w.T + VARIANCE * torch.eye(PIXELS, dtype=torch.float64)
        return MultivariateNormal(self.b, covariance).log_prob(x.flatten(1))

    def posterior(self, x):
        precision = torch.eye(LATENTS, dtype=torch.float64) + self.w.T @ self.w / VARIANCE
        mean = torch.linalg.solve(precision, self.w.T @ (x.flatten(1) - self.b).T / VARIANCE).T
        return MultivariateNormal(mean, precision_matrix=precision)

    def q(self, x):
        """q(z|x) by the encoder's weights, differentiable in them"""
        moments = (x - self.model.pixel_mean).flatten(1) @ self.encoder.weight.T + self.encoder.bias
        return Normal(moments[:, :LATENTS], (moments[:, LATENTS:] / 2).exp())

    def reconstruction(self, x):
        """-E_q log p(x|z): of ||x - b - W z||^2, the mean's square plus the trace of W diag(sigma^2) W^T"""
        q = self.q(x)
        square = (x.flatten(1) - self.b - q.loc @ self.w.T).square().sum(1) + q.variance @ self.w.square().sum(0)
        return 0.5 * (square / VARIANCE + PIXELS * math.log(2 * math.pi * VARIANCE))

    def kl(self, x):
        return kl_divergence(self.q(x), Normal(torch.zeros(LATENTS, dtype=torch.float64), 1.0)).sum(1)

    def repeated(self, objective, x, repeats, samples=1, seed=7):
        """The terms of `repeats` independent evaluations, each (repeats, B); the batch is repeated, so L is `samples`."""
        noise = normal(samples, repeats * len(x), LATENTS, seed=seed)
        with torch.no_grad():
            terms = objective(self.model, x.repeat(repeats, 1, 1, 1), noise)
        return {key: value.view(repeats, len(x)) for key, value in terms.items()}


def z_scores(values, expected):
    """How many standard errors the mean of `values` over the first dimension is above `expected`."""
    return (values.mean(0) - expected) / (values.std(0) / math.sqrt(len(values)))


def bernoulli_model():
    torch.manual_seed(0)
    model = MLPVAE(sample_size=4, latent_size=3, hidden_sizes=(6,), likelihood="bernoulli").double()
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(0.7 * normal(*p.shape, seed=i))
    x = (normal(4, 1, 4, 4, seed=20) > 0).double() * 2 - 1
    return model, x, normal(5, 4, 3, seed=21)


def test_the_references_agree():
    """log p(x) - KL(q || p(z|x)) = E_q log p(x|z) - KL(q || p(z)): two closed forms of the bound."""
    linear = Linear(off=1.0)
    x = linear.images()
    q = linear.q(x)
    gap = kl_divergence(MultivariateNormal(q.loc, torch.diag_embed(q.variance)), linear.posterior(x))
    torch.testing.assert_close(linear.log_p(x) - gap, -linear.reconstruction(x) - linear.kl(x), **EXACT)
    assert (gap > 0.1).all()


# values


@pytest.mark.parametrize("objective", [SGVBA, ImportanceWeighted, ScoreFunction])
@pytest.mark.parametrize("samples", [1, 4])
def test_with_the_posterior_as_q_the_bound_is_log_p_for_any_noise(objective, samples):
    linear = Linear()
    x = linear.images()
    loss = objective(linear.model.likelihood)(linear.model, x, 3 * normal(samples, 3, LATENTS, seed=8))["loss"]
    torch.testing.assert_close(loss, -linear.log_p(x), **EXACT)


def test_with_the_posterior_as_q_bound_b_is_log_p_in_expectation():
    linear = Linear()
    x = linear.images()
    losses = linear.repeated(SGVBB(linear.model.likelihood), x, 20_000)["loss"]
    assert losses.std(0).min() > 0.1  # its KL is not that of the sample
    assert z_scores(losses, -linear.log_p(x)).abs().max() < 5


@pytest.mark.parametrize("objective", [SGVBA, SGVBB, ScoreFunction])
@pytest.mark.parametrize("samples", [1, 3])
def test_bounds_are_their_closed_form_in_expectation(objective, samples):
    linear = Linear(off=1.0)
    x = linear.images()
    terms = linear.repeated(objective(linear.model.likelihood), x, 20_000, samples)
    # five standard errors in each of 3 images
    assert z_scores(terms["loss"], linear.reconstruction(x) + linear.kl(x)).abs().max() < 5
    assert z_scores(terms["reconstruction"], linear.reconstruction(x)).abs().max() < 5
    if objective is SGVBB:
        torch.testing.assert_close(terms["kl"], linear.kl(x).expand(20_000, -1), **EXACT)
    else:
        assert z_scores(terms["kl"], linear.kl(x)).abs().max() < 5
    # and below log p(x), far beyond that error
    assert z_scores(terms["loss"], -linear.log_p(x)).min() > 20


def test_importance_weighted_bound_is_a_bound_that_grows_with_k():
    linear = Linear(off=1.0)
    x, sizes = linear.images(), [1, 4, 16, 64]
    repeats = 4000
    noise = normal(max(sizes), repeats * 3, LATENTS, seed=9)
    objective, batch = ImportanceWeighted(linear.model.likelihood), x.repeat(repeats, 1, 1, 1)
    with torch.no_grad():
        # the same noise for all k
        losses = [objective(linear.model, batch, noise[:k])["loss"].view(repeats, 3) for k in sizes]
    for fewer, more in itertools.pairwise(losses):
        assert z_scores(fewer - more, 0).min() > 5
    # below log p(x) for every k, or within its standard error of it
    assert all((z_scores(loss, -linear.log_p(x)) > -5).all() for loss in losses)
    gaps = torch.stack([loss.mean(0) + linear.log_p(x) for loss in losses])
    assert (gaps[-1] < 0.05 * gaps[0]).all()


def test_importance_weights_are_unbiased():
    """E_q[p(x, z) / q(z|x)] = p(x): the mean of exp(-loss) over repeats, for any k."""
    linear = Linear(off=0.5)
    x = linear.images()
    for k in (1, 8):
        losses = linear.repeated(ImportanceWeighted(linear.model.likelihood), x, 10_000, samples=k)["loss"]
        weights = (-losses - linear.log_p(x)).exp()
        assert weights.std(0).min() > 0.01
        assert z_scores(weights, 1.0).abs().max() < 5


def test_importance_weighted_bound_by_its_formula():
    linear = Linear(off=1.0)
    x, noise = linear.images(), normal(6, 3, LATENTS, seed=10)
    loss = ImportanceWeighted(linear.model.likelihood)(linear.model, x, noise)["loss"]
    q = linear.q(x)
    for i in range(3):
        weights = []
        for eps in noise[:, i]:
            z = q.loc[i] + q.stddev[i] * eps
            p_x_z = MultivariateNormal(linear.b + linear.w @ z, VARIANCE * torch.eye(PIXELS, dtype=torch.float64))
            p_z = math.exp(-0.5 * z.square().sum().item()) / (2 * math.pi)
            q_z = Normal(q.loc[i], q.stddev[i]).log_prob(z).sum().exp().item()
            weights.append(p_x_z.log_prob(x[i].flatten()).exp().item() * p_z / q_z)
        assert loss[i].item() == pytest.approx(-math.log(sum(weights) / len(weights)), rel=1e-11)


def test_importance_weighted_bound_where_the_weights_underflow():
    linear = Linear()
    x = linear.images() + 100  # log p(x) is some -1e5: exp of it is 0 even in float64
    loss = ImportanceWeighted(linear.model.likelihood)(linear.model, x, normal(6, 3, LATENTS, seed=10))["loss"]
    assert (loss > 10_000).all()
    # relative to terms of 1e5
    torch.testing.assert_close(loss, -linear.log_p(x), rtol=1e-9, atol=0)


def test_one_importance_sample_is_bound_a():
    linear = Linear(off=1.0)
    x, noise = linear.images(), normal(1, 3, LATENTS, seed=11)
    gradients = []
    for kind in (ImportanceWeighted, SGVBA):
        linear.model.zero_grad()
        loss = kind(linear.model.likelihood)(linear.model, x, noise)["loss"]
        loss.sum().backward()
        gradients.append([p.grad.clone() for p in linear.model.parameters()])
        assert loss.equal(SGVBA(linear.model.likelihood)(linear.model, x, noise)["loss"])
    torch.testing.assert_close(*gradients, **EXACT)


def test_bounds_of_a_bernoulli_model_by_a_loop_over_samples():
    model, x, noise = bernoulli_model()
    q = model.encode(x).latent_dist
    z = q.mean + (q.logvar / 2).exp() * noise
    prior = Normal(torch.zeros_like(q.mean), 1.0)
    log_likelihoods, log_ratios = [], []
    for sample in z:
        logits = model.decoder(sample)
        log_likelihoods.append(Independent(Bernoulli(logits=logits), 3).log_prob((x + 1) / 2))
        log_ratios.append((Normal(q.mean, q.std).log_prob(sample) - prior.log_prob(sample)).sum(1))
    reconstruction, ratio = -torch.stack(log_likelihoods).mean(0), torch.stack(log_ratios).mean(0)
    expected = {"SGVBA": ratio, "ScoreFunction": ratio, "SGVBB": kl_divergence(Normal(q.mean, q.std), prior).sum(1)}
    for kind in WEIGHTED:
        terms = kind(model.likelihood)(model, x, noise)
        torch.testing.assert_close(terms["reconstruction"], reconstruction, **EXACT)
        torch.testing.assert_close(terms["kl"], expected[kind.__name__], **EXACT)
        torch.testing.assert_close(terms["loss"], reconstruction + expected[kind.__name__], **EXACT)
    # the mean is over log-likelihoods: decoding the mean of z gives another number
    decoded_mean = -Independent(Bernoulli(logits=model.decoder(z.mean(0))), 3).log_prob((x + 1) / 2)
    assert ((reconstruction - decoded_mean).abs() > 0.01).all()


def test_the_mean_over_samples_is_a_bound_where_decoding_the_mean_of_z_is_none():
    linear = Linear()
    x, samples = linear.images(), 4000
    noise, q = normal(samples, 3, LATENTS, seed=14), linear.q(x)
    loss = SGVBB(linear.model.likelihood)(linear.model, x, noise)["loss"]
    single = linear.repeated(SGVBB(linear.model.likelihood), x, 1000)["loss"]
    # q is the posterior: -log p(x) in expectation, with five standard errors of the samples' mean
    error = 5 * single.std(0) / math.sqrt(samples)
    assert ((loss + linear.log_p(x)).abs() < error).all()
    mean_z = (q.loc + q.stddev * noise).mean(0)
    no_bound = -linear.model.likelihood.log_prob(x, linear.model.decode_outputs(mean_z)) + linear.kl(x)
    assert (no_bound < -linear.log_p(x) - 5 * error).all()


@pytest.mark.parametrize("kind", BOUNDS)
def test_terms(kind):
    model, x, noise = bernoulli_model()
    for samples in (1, 5):
        terms = kind(model.likelihood)(model, x, noise[:samples])
        assert set(terms) == {"loss", "reconstruction", "kl"}
        assert all(value.shape == (4,) for value in terms.values())
        assert terms["loss"].requires_grad
        if kind is ImportanceWeighted:  # the logged terms are those of bound A, without gradients
            logged = SGVBA(model.likelihood)(model, x, noise[:samples])
            torch.testing.assert_close(terms["reconstruction"], logged["reconstruction"].detach(), **EXACT)
            torch.testing.assert_close(terms["kl"], logged["kl"].detach(), **EXACT)
            assert not terms["reconstruction"].requires_grad
        else:
            torch.testing.assert_close(terms["loss"], terms["reconstruction"] + terms["kl"], **EXACT)


# the KL weight


@pytest.mark.parametrize("kind", WEIGHTED)
def test_kl_weight_acts_on_the_loss_alone(kind):
    model, x, noise = bernoulli_model()
    full, weighted = (kind(model.likelihood)(model, x, noise, weight) for weight in (1.0, 0.25))
    assert weighted["reconstruction"].equal(full["reconstruction"])
    assert weighted["kl"].equal(full["kl"])
    torch.testing.assert_close(weighted["loss"], full["reconstruction"] + 0.25 * full["kl"], **EXACT)
    assert (full["loss"] - weighted["loss"]).abs().min() > 0.01


def test_importance_weighted_bound_refuses_a_kl_weight():
    model, x, noise = bernoulli_model()
    with pytest.raises(ValueError, match=r"kl_weight=0\.25: .*no KL term"):
        ImportanceWeighted(model.likelihood)(model, x, noise, 0.25)
    ImportanceWeighted(model.likelihood)(model, x, noise, 1.0)


def test_warm_up_of_the_kl_weight():
    assert [kl_weight(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert [kl_weight(step, 0) for step in (0, 1, 10**6)] == [1.0, 1.0, 1.0]
    assert [kl_weight(step, 1) for step in (0, 1)] == [1.0, 1.0]
    assert kl_weight(0, 1000) == 0.001
    assert kl_weight(998, 1000) < 1 == kl_weight(999, 1000)


# gradients


def encoder_gradients(linear, objective, x, samples, draws, weight=1.0, seed=12):
    """Gradients of the batch's mean loss by the encoder's 40 weights, for `draws` draws of the noise, (draws, 40)."""
    frozen = {**dict(linear.model.named_parameters()), **dict(linear.model.named_buffers())}
    frozen = {name: value.detach() for name, value in frozen.items()}
    encoder = {name: value for name, value in frozen.items() if name.startswith("encoder")}

    def loss(parameters, noise):
        def model(x, **arguments):
            return functional_call(linear.model, {**frozen, **parameters}, (x,), arguments)

        return objective(model, x, noise, weight)["loss"].mean()

    noise = normal(draws, samples, len(x), LATENTS, seed=seed)
    gradients = vmap(grad(loss), in_dims=(None, 0))(encoder, noise)
    return torch.cat([gradients[name].flatten(1) for name in encoder], 1)


def exact_encoder_gradient(linear, x, weight=1.0):
    loss = (linear.reconstruction(x) + weight * linear.kl(x)).mean()
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, (linear.encoder.weight, linear.encoder.bias))])


ESTIMATORS = {
    "SGVB A": (SGVBA, {}),
    "SGVB B": (SGVBB, {}),
    "score function": (ScoreFunction, {}),
    "score function without baseline": (ScoreFunction, {"baseline": False}),
}


@pytest.mark.parametrize("weight", [1.0, 0.4])
@pytest.mark.parametrize("samples", [1, 4])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_encoder_gradients_are_exact_in_expectation(estimator, samples, weight):
    linear = Linear(off=1.0)
    x = linear.images()
    kind, options = ESTIMATORS[estimator]
    gradients = encoder_gradients(linear, kind(linear.model.likelihood, **options), x, samples, 40_000, weight)
    exact = exact_encoder_gradient(linear, x, weight)
    # 640 z-scores in all: one of them above 5 has a probability of 4e-4
    assert z_scores(gradients, exact).abs().max() < 5
    # a gradient that is wrong by a third would show
    assert z_scores(gradients, 2 / 3 * exact).abs().max() > 10


@pytest.mark.parametrize("samples", [1, 4])
def test_baseline_reduces_the_variance(samples):
    """With L = 1 by the other images, with L = 4 by the other samples of the same image."""
    linear = Linear(off=1.0)
    x = linear.images(4)
    variance = {}
    for baseline in (True, False):
        objective = ScoreFunction(linear.model.likelihood, baseline=baseline)
        variance[baseline] = encoder_gradients(linear, objective, x, samples, 2000).var(0).sum().item()
    assert variance[True] < 0.5 * variance[False]
    # and the reparameterised gradient has less still: what the estimator is there for
    reparameterized = encoder_gradients(linear, SGVBA(linear.model.likelihood), x, samples, 2000).var(0).sum().item()
    assert reparameterized < 0.5 * variance[True]


def test_with_the_posterior_as_q_the_baseline_leaves_no_gradient():
    """f = log p(x) whatever z is: the other samples of an image have the same f, other images do not."""
    linear = Linear()
    x = linear.images()
    largest = {}
    for samples, baseline in ((4, True), (4, False), (1, True)):
        objective = ScoreFunction(linear.model.likelihood, baseline=baseline)
        largest[samples, baseline] = encoder_gradients(linear, objective, x, samples, 10).abs().max().item()
    # differences of f, some 10 nats, in float64
    assert largest[4, True] < 1e-11
    assert largest[4, False] > 0.1
    assert largest[1, True] > 0.1


def test_a_single_sample_of_a_single_image_has_no_baseline():
    linear = Linear(off=1.0)
    x, noise = linear.images(1), normal(1, 1, LATENTS, seed=13)
    gradients = []
    for baseline in (True, False):
        linear.model.zero_grad()
        ScoreFunction(linear.model.likelihood, baseline)(linear.model, x, noise)["loss"].sum().backward()
        gradients.append(linear.encoder.weight.grad.clone())
    assert gradients[0].isfinite().all()
    assert gradients[0].equal(gradients[1])


@pytest.mark.parametrize("baseline", [True, False])
@pytest.mark.parametrize("samples", [1, 5])
@pytest.mark.parametrize("weight", [1.0, 0.4])
def test_score_function_has_the_value_and_the_decoder_gradient_of_bound_a(baseline, samples, weight):
    model, x, noise = bernoulli_model()
    results, encoder = [], []
    for objective in (SGVBA(model.likelihood), ScoreFunction(model.likelihood, baseline)):
        model.zero_grad()
        loss = objective(model, x, noise[:samples], weight)["loss"]
        loss.mean().backward()
        results.append([loss, *(p.grad.clone() for p in model.decoder.parameters())])
        encoder.append(torch.cat([p.grad.flatten() for p in model.encoder.parameters()]))
    torch.testing.assert_close(*results, **EXACT)
    assert not torch.allclose(*encoder)  # the encoder's gradient is another
