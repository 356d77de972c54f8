"""The bounds of hierarchical VAEs and their gradients, on linear Gaussian chains whose log p(x) is known, and by quadrature."""

import itertools
import math

import numpy as np
import pytest
import torch
from accelerate.utils.operations import convert_outputs_to_fp32
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from hfgen.models import MLPVAE
from hfgen.models.modeling_hfgen_mhvae import MLPMHVAE
from hfgen.objectives import SGVBA, SGVBB, DReG, ImportanceWeighted, ScoreFunction, layer_terms
from hfgen.objectives.variational import drawn_by_weight

PIXELS, SIZE, VARIANCE = 9, 2, 0.3
# of exact equalities in float64: sums of some tens of terms of size 1 to 100
EXACT = {"rtol": 1e-10, "atol": 1e-10}
UNWEIGHTED = [SGVBA, SGVBB, ImportanceWeighted, DReG, ScoreFunction]


def normal(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Chain:
    """z_T ~ N(0, I), z_{t-1} = b_t + d_t z_t + noise of variance v_t, x = b_1 + W z_1 + noise, all in float64.

    d_t are diagonal and W has orthogonal columns, so that the exact posterior is itself a chain of diagonal Gaussians. q is that
    or, with `off` > 0, that far from it in each of the encoders' weights.
    """

    def __init__(self, layers, off=0.0):
        self.layers = layers
        self.model = MLPMHVAE(
            sample_size=3,
            latent_sizes=(SIZE,) * layers,
            hidden_sizes=((),) * layers,
            likelihood="gaussian",
            gaussian_variance=VARIANCE,
        ).double()
        lengths = torch.tensor([1.2, 0.6], dtype=torch.float64)
        self.maps = [torch.linalg.qr(normal(PIXELS, SIZE, seed=0))[0] * lengths]
        self.maps += [torch.diag(0.5 + normal(SIZE, seed=40 + t).abs()) for t in range(1, layers)]
        self.offsets = [0.5 * normal(PIXELS if t == 0 else SIZE, seed=50 + t) for t in range(layers)]
        self.variances = [torch.full((PIXELS,), VARIANCE, dtype=torch.float64)]
        self.variances += [0.2 + normal(SIZE, seed=60 + t).abs() for t in range(1, layers)]
        with torch.no_grad():
            self._set_decoders()
            self._set_encoders()
            for seed, encoder in enumerate(self.encoders):
                encoder.weight.add_(off * 0.1 * normal(*encoder.weight.shape, seed=70 + seed))
                encoder.bias.add_(off * 0.4 * normal(*encoder.bias.shape, seed=80 + seed))

    @property
    def encoders(self):
        return [network[-1] for network in self.model.encoders]

    @property
    def decoders(self):
        return [network[0] for network in self.model.decoders]

    def marginal(self, layer):
        """Mean and covariance of p(z_layer); of layer 0 those of p(x)."""
        mean, covariance = torch.zeros(SIZE, dtype=torch.float64), torch.eye(SIZE, dtype=torch.float64)
        for t in range(self.layers - 1, layer - 1, -1):
            mean = self.offsets[t] + self.maps[t] @ mean
            covariance = self.maps[t] @ covariance @ self.maps[t].T + torch.diag(self.variances[t])
        return mean, covariance

    def _set_decoders(self):
        for t, decoder in enumerate(self.decoders):
            rows = len(self.offsets[t])
            decoder.weight.zero_()[:rows].copy_(self.maps[t])
            decoder.bias[:rows].copy_(self.offsets[t])
            if t:
                decoder.bias[rows:].copy_(self.variances[t].log())

    def _set_encoders(self):
        """q(z_t|z_{t-1}) = p(z_t|z_{t-1}): Bayes' rule for a diagonal p(z_t) and a linear p(z_{t-1}|z_t)."""
        for t, encoder in enumerate(self.encoders):
            mean, covariance = self.marginal(t + 1)
            slope = self.maps[t].T / self.variances[t]
            precision = covariance.inverse() + slope @ self.maps[t]
            variance = precision.diagonal().reciprocal()
            torch.testing.assert_close(torch.diag(variance), precision.inverse(), **EXACT)
            encoder.weight.zero_()[:SIZE].copy_(variance[:, None] * slope)
            encoder.bias[:SIZE].copy_(variance * (mean / covariance.diagonal() - slope @ self.offsets[t]))
            encoder.bias[SIZE:].copy_(variance.log())

    def images(self, count=3):
        mean, covariance = self.marginal(0)
        return (mean + normal(count, PIXELS, seed=5) @ torch.linalg.cholesky(covariance).T).view(count, 1, 3, 3)

    def log_p(self, x):
        return MultivariateNormal(*self.marginal(0)).log_prob(x.flatten(1))

    def terms(self, x):
        """-E log p(x|z_1) and E log q(z_t|z_{t-1}) - E log p(z_t|z_{t+1}) of each layer, (B,), in closed form; differentiable.

        The log variances that the encoders put out depend on their input, but where `off` is 0: they are held at their bias.
        """
        q = []  # joint over the layers so far: mean (B, n), covariance (n, n)
        mean, covariance = x.flatten(1), torch.zeros(PIXELS, PIXELS, dtype=torch.float64)
        entropies, cross = [], []
        for encoder in self.encoders:
            slope, variance = encoder.weight[:SIZE], encoder.bias[SIZE:].exp()
            shared = covariance @ slope.T
            above = slope @ shared + torch.diag(variance)
            q.append((mean, covariance, mean @ slope.T + encoder.bias[:SIZE], above, shared))
            entropies.append(0.5 * (1 + math.log(2 * math.pi) + variance.log()).sum())
            mean, covariance = q[-1][2], above
        for t, (low_mean, low, high_mean, high, shared) in enumerate(q):
            rows, decoder = len(self.offsets[t]), self.decoders[t]
            matrix, offset = decoder.weight[:rows], decoder.bias[:rows]
            log_variance = decoder.bias[rows:] if t else self.variances[0].log()
            spread = low - matrix @ shared.T - shared @ matrix.T + matrix @ high @ matrix.T
            square = (low_mean - offset - high_mean @ matrix.T).square() + spread.diagonal()
            cross.append(0.5 * (square / log_variance.exp() + log_variance + math.log(2 * math.pi)).sum(1))
        cross.append(0.5 * (mean.square() + covariance.diagonal() + math.log(2 * math.pi)).sum(1))
        kls = [p - entropy for p, entropy in zip(cross[1:], entropies, strict=True)]
        return cross[0], kls

    def parameters(self):
        """What `terms` knows how to differentiate by: not the decoder's fixed variance, nor the slopes of the log variances."""
        return [*(e.weight for e in self.encoders), *(e.bias for e in self.encoders), *(d.bias for d in self.decoders)]


def held(gradients, chain):
    """Flat gradients without those of the slopes of log variances."""
    parts = [g[:SIZE] for g in gradients[: chain.layers]]
    return torch.cat([g.flatten() for g in (*parts, *gradients[chain.layers :])])


def constant_variances(chain):
    with torch.no_grad():
        for encoder in chain.encoders:
            encoder.weight[SIZE:].zero_()
    return chain


def repeated(model, objective, x, repeats, samples=1, seed=7, size=None):
    """The terms of `repeats` independent evaluations, each (repeats, B)."""
    noise = normal(samples, repeats * len(x), size or sum(model.latent_sizes), seed=seed)
    with torch.no_grad():
        terms = objective(model, x.repeat(repeats, 1, 1, 1), noise)
    return {key: value.view(repeats, len(x)) for key, value in terms.items()}


def z_scores(values, expected):
    return (values.mean(0) - expected) / (values.std(0) / math.sqrt(len(values)))


def gradients_of(model, objective, x, noise, parameters):
    """Of the batch's mean loss."""
    loss = objective(model, x, noise)["loss"].mean()
    return torch.autograd.grad(loss, parameters, allow_unused=True)


# the references


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_references_agree(layers):
    """log p(x) - KL(q(z_1|x) || p(z_1|x)) - E KL(q(z_2|z_1) || p(z_2|z_1)) - ... = the closed form of the bound."""
    exact, chain = Chain(layers), constant_variances(Chain(layers, off=1.0))
    x = chain.images()
    gap, mean, covariance = 0, x.flatten(1), torch.zeros(PIXELS, PIXELS, dtype=torch.float64)
    for q, p in zip(chain.encoders, exact.encoders, strict=True):
        moments = [(e.weight[:SIZE], e.bias[:SIZE], (e.bias[SIZE:] / 2).exp()) for e in (q, p)]
        (slope, bias, std), (slope_p, bias_p, std_p) = moments
        centre = kl_divergence(Normal(mean @ slope.T + bias, std), Normal(mean @ slope_p.T + bias_p, std_p)).sum(1)
        difference = slope - slope_p
        gap = gap + centre + 0.5 * ((difference @ covariance @ difference.T).diagonal() / std_p.square()).sum()
        mean, covariance = mean @ slope.T + bias, slope @ covariance @ slope.T + torch.diag(std.square())
    reconstruction, kls = chain.terms(x)
    torch.testing.assert_close(-reconstruction - sum(kls), chain.log_p(x) - gap, **EXACT)
    assert (gap > 0.05).all()


# values


@pytest.mark.parametrize("objective", [SGVBA, ImportanceWeighted, DReG, ScoreFunction])
@pytest.mark.parametrize(("layers", "samples"), [(1, 4), (2, 1), (3, 4)])
def test_with_the_posterior_as_q_the_bound_is_log_p_for_any_noise(objective, layers, samples):
    chain = Chain(layers)
    x, noise = chain.images(), 3 * normal(samples, 3, SIZE * layers, seed=8)
    loss = objective(chain.model.likelihood)(chain.model, x, noise)["loss"]
    torch.testing.assert_close(loss, -chain.log_p(x), **EXACT)


@pytest.mark.parametrize("objective", [SGVBA, SGVBB, ScoreFunction])
@pytest.mark.parametrize(("layers", "samples"), [(2, 1), (3, 3)])
def test_bounds_and_each_layers_kl_are_their_closed_form_in_expectation(objective, layers, samples):
    chain = constant_variances(Chain(layers, off=1.0))
    x = chain.images()
    reconstruction, kls = chain.terms(x)
    terms = repeated(chain.model, objective(chain.model.likelihood), x, 20_000, samples)
    # five standard errors in each of 3 images
    assert z_scores(terms["loss"], reconstruction + sum(kls)).abs().max() < 5
    assert z_scores(terms["reconstruction"], reconstruction).abs().max() < 5
    for name, kl in zip(layer_terms(layers), kls, strict=True):
        assert z_scores(terms[name], kl).abs().max() < 5
    torch.testing.assert_close(terms["kl"], sum(terms[name] for name in layer_terms(layers)), **EXACT)


def test_closed_forms_take_noise_out():
    chain = constant_variances(Chain(3, off=1.0))
    x = chain.images()
    a, b = (repeated(chain.model, kind(chain.model.likelihood), x, 4000) for kind in (SGVBA, SGVBB))
    for name in layer_terms(3):
        assert (b[name].std(0) < 0.95 * a[name].std(0)).all()


def test_the_importance_weighted_bound_grows_with_k_up_to_log_p():
    chain = Chain(2, off=1.0)
    x, repeats = chain.images(), 2000
    noise = normal(64, repeats * 3, 2 * SIZE, seed=9)
    with torch.no_grad():
        bound, batch = ImportanceWeighted(chain.model.likelihood), x.repeat(repeats, 1, 1, 1)
        losses = [bound(chain.model, batch, noise[:k])["loss"].view(repeats, 3) for k in (1, 8, 64)]
    for fewer, more in itertools.pairwise(losses):
        assert z_scores(fewer - more, 0).min() > 5
    gaps = torch.stack([loss.mean(0) + chain.log_p(x) for loss in losses])
    assert (gaps[-1] < 0.2 * gaps[0]).all()
    assert (z_scores(losses[-1], -chain.log_p(x)) > -5).all()


# gradients


@pytest.mark.parametrize("objective", [SGVBA, SGVBB, DReG, ScoreFunction])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_gradients_of_the_bound_are_exact_in_expectation(objective, layers):
    """By 60 groups of 300 draws of each of 3 images; DReG with k = 1."""
    chain = constant_variances(Chain(layers, off=1.0))
    x, parameters = chain.images(), chain.parameters()
    reconstruction, kls = chain.terms(x)
    exact = held(torch.autograd.grad((reconstruction + sum(kls)).mean(), parameters), chain)
    bound, batch = objective(chain.model.likelihood), x.repeat(300, 1, 1, 1)
    drawn = torch.stack(
        [
            held(
                gradients_of(
                    chain.model, bound, batch, normal(1, len(batch), SIZE * layers, seed=1000 + i), parameters
                ),
                chain,
            )
            for i in range(60)
        ]
    )
    assert z_scores(drawn, exact).abs().max() < 5
    # a gradient that is wrong by a third would show
    assert z_scores(drawn, 2 / 3 * exact).abs().max() > 10


def small(layers, kind=MLPMHVAE):
    """A network with hidden layers and one latent a layer, for quadrature over its noises."""
    torch.manual_seed(3)
    sizes = {"latent_sizes": (1,) * layers, "hidden_sizes": ((3,),) * layers} if kind is MLPMHVAE else {}
    if kind is MLPVAE:
        sizes = {"latent_size": 1, "hidden_sizes": (3,)}
    model = kind(sample_size=2, likelihood="gaussian", gaussian_variance=0.8, **sizes).double()
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(0.4 * normal(*p.shape, seed=90 + i))
    return model, normal(1, 1, 2, 2, seed=91)


def by_quadrature(model, objective, x, samples, size, nodes=14):
    """The expectation over the noises of loss and gradient, by Gauss and Hermite's rule in each of them."""
    places, weights = np.polynomial.hermite_e.hermegauss(nodes)
    places, weights = torch.tensor(places), torch.tensor(weights / weights.sum())
    dimensions = samples * size
    grid = torch.cartesian_prod(*[places] * dimensions).view(-1, samples, size).transpose(0, 1)
    weight = torch.cartesian_prod(*[weights] * dimensions).view(-1, dimensions).prod(1)
    losses = objective(model, x.expand(grid.shape[1], -1, -1, -1), grid)["loss"]
    expected = (weight * losses).sum()
    gradients = torch.autograd.grad(expected, list(model.parameters()))
    return expected.detach(), torch.cat([g.flatten() for g in gradients])


@pytest.mark.parametrize(("layers", "samples", "kind"), [(1, 3, MLPVAE), (1, 3, MLPMHVAE), (2, 2, MLPMHVAE)])
def test_the_doubly_reparameterised_gradient_is_that_of_the_bound(layers, samples, kind):
    """The plain estimator under quadrature is the exact gradient of the quadrature's own value; DReG's differs by its error."""
    model, x = small(layers, kind)
    value, exact = by_quadrature(model, ImportanceWeighted(model.likelihood), x, samples, layers)
    same, found = by_quadrature(model, DReG(model.likelihood), x, samples, layers)
    torch.testing.assert_close(same, value, **EXACT)
    # 4e-6 is what 14 nodes leave of the error; gradients are of size 0.01 to 1
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-5)
    assert exact.abs().max() > 0.05


@pytest.mark.parametrize("objective", [ImportanceWeighted, DReG])
@pytest.mark.parametrize("layers", [1, 2])
def test_the_gradient_through_samples_drawn_by_weight_is_in_the_mean_that_through_all(layers, objective):
    """The mean over the number of the choice, a step function of it, by the midpoints of 4,000 intervals: to some 1 / 4,000."""
    model, x = small(layers)
    noise, count = normal(5, 1, layers, seed=17), 4000
    uniform = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    weights = list(model.parameters())

    def found(bound, copies, **choice):
        terms = bound(model, x.expand(copies, -1, -1, -1), noise.expand(-1, copies, -1), **choice)
        return terms, torch.cat([g.flatten() for g in torch.autograd.grad(terms["loss"].mean(), weights)])

    terms, exact = found(objective(model.likelihood), 1)
    drawn, mean = found(objective(model.likelihood, gradient_samples=2), count, uniform=uniform)
    _, single = found(objective(model.likelihood, gradient_samples=2), 1, uniform=uniform[:1])
    for name, value in terms.items():
        torch.testing.assert_close(drawn[name], value.expand(count), **EXACT)
    assert exact.abs().max() > 0.05
    assert (mean - exact).abs().max() < 1e-3
    assert (single - exact).abs().max() > 1e-2


def test_samples_are_drawn_as_often_as_they_weigh():
    weights = torch.tensor([[0.5, 0.0], [0.3, 1.0], [0.2, 0.0]])
    uniform = torch.tensor([0.0, 0.999999])
    assert drawn_by_weight(weights, uniform, 10).T.tolist() == [[0] * 5 + [1] * 3 + [2] * 2, [1] * 10]
    columns = drawn_by_weight(weights[:, :1].expand(-1, 1000), torch.linspace(0, 0.999, 1000), 1)
    assert torch.bincount(columns.flatten()).tolist() == pytest.approx([500, 300, 200], abs=2)


def test_in_bf16_the_gradient_is_weighted_as_in_float32():
    """Samples that come in another type than the model made them in would be copies, whose weights do not reach the encoder.

    The gradients agree to some roundings of 2^-8; unweighted they would be another by half of their length.
    """
    torch.manual_seed(0)
    model = MLPMHVAE(sample_size=8, latent_sizes=(6, 4), hidden_sizes=((32,), (16,)), likelihood="bernoulli")
    x, noise = torch.randint(2, (16, 1, 8, 8)) * 2.0 - 1, torch.randn(10, 16, 10)
    weights = list(model.encoders.parameters())
    rounded = convert_outputs_to_fp32(torch.autocast("cpu", torch.bfloat16)(model.forward))
    found = []
    for forward in (model, rounded):
        loss = DReG(model.likelihood)(forward, x, noise)["loss"].mean()
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)]))
    assert (found[1] - found[0]).norm() < 0.05 * found[0].norm()


def test_only_the_whole_of_it_is_unbiased():
    """Weighting the gradient of a lower layer a second time on its way down, or leaving the upper score in, is another gradient."""
    model, x = small(2)

    class Naive(DReG):
        def __call__(self, model, x, latent_noise, kl_weight=1.0, free_bits=0.0):
            plain = lambda *args, reparameterize, **kwargs: model(*args, **kwargs)  # noqa: E731
            return super().__call__(plain, x, latent_noise)

    exact = by_quadrature(model, ImportanceWeighted(model.likelihood), x, 2, 2)[1]
    naive = by_quadrature(model, Naive(model.likelihood), x, 2, 2)[1]
    assert (naive - exact).abs().max() > 1e-3


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_doubly_reparameterised_gradient_varies_less(layers):
    chain = Chain(layers, off=1.0)
    x, weights = chain.images(2), [p for e in chain.encoders for p in e.parameters()]
    spread = {}
    for kind in (ImportanceWeighted, DReG):
        bound = kind(chain.model.likelihood)
        drawn = [
            torch.cat(
                [
                    g.flatten()
                    for g in gradients_of(chain.model, bound, x, normal(16, 2, SIZE * layers, seed=i), weights)
                ]
            )
            for i in range(100)
        ]
        spread[kind] = torch.stack(drawn).var(0).sum().item()
    assert spread[DReG] < 0.5 * spread[ImportanceWeighted]


@pytest.mark.parametrize("layers", [1, 3])
def test_with_the_posterior_as_q_the_encoders_have_no_doubly_reparameterised_gradient(layers):
    """All weights are equal whatever z is: nothing is left to learn, and nothing is left of the noise."""
    chain = Chain(layers)
    x, noise = chain.images(), normal(5, 3, SIZE * layers, seed=10)
    weights = [p for e in chain.encoders for p in e.parameters()]
    for kind, least, most in ((DReG, 0, 1e-10), (ImportanceWeighted, 0.01, math.inf)):
        gradients = gradients_of(chain.model, kind(chain.model.likelihood), x, noise, weights)
        assert least <= max(g.abs().max().item() for g in gradients) <= most


@pytest.mark.parametrize("layers", [1, 2])
def test_value_and_decoders_gradient_are_those_of_the_importance_weighted_bound(layers):
    chain = Chain(layers, off=1.0)
    x, noise = chain.images(), normal(5, 3, SIZE * layers, seed=11)
    weights = list(chain.model.decoders.parameters())
    found = []
    for kind in (ImportanceWeighted, DReG):
        bound = kind(chain.model.likelihood)
        terms = bound(chain.model, x, noise)
        found.append([*terms.values(), *gradients_of(chain.model, bound, x, noise, weights)])
    torch.testing.assert_close(*found, **EXACT)


def test_of_a_vae_it_is_that_of_a_chain_of_one_layer():
    model, x = small(1, MLPVAE)
    chain, _ = small(1)
    chain.load_state_dict(
        {
            name.replace("encoder.", "encoders.0.").replace("decoder.", "decoders.0."): v
            for name, v in model.state_dict().items()
        }
    )
    noise = normal(4, 1, 1, seed=12)
    for kind in UNWEIGHTED:
        one, other = (gradients_of(m, kind(m.likelihood), x, noise, list(m.parameters())) for m in (model, chain))
        torch.testing.assert_close(one, other, **EXACT)


# warm-up and free bits


@pytest.mark.parametrize("objective", [SGVBA, SGVBB, ScoreFunction])
def test_the_kl_weight_acts_on_the_loss_alone(objective):
    chain = Chain(2, off=1.0)
    x, noise = chain.images(), normal(3, 3, 2 * SIZE, seed=13)
    full, half = (objective(chain.model.likelihood)(chain.model, x, noise, weight) for weight in (1.0, 0.5))
    torch.testing.assert_close(half["loss"], full["reconstruction"] + 0.5 * full["kl"], **EXACT)
    assert half["kl_2"].equal(full["kl_2"])


@pytest.mark.parametrize("objective", [SGVBA, SGVBB])
def test_free_bits_hold_each_layer_up_and_stop_its_gradient(objective):
    chain = Chain(2, off=1.0)
    x, noise = chain.images(), normal(50, 3, 2 * SIZE, seed=14)
    bound = objective(chain.model.likelihood)
    plain = bound(chain.model, x, noise)
    least = 0.5 * (plain["kl_1"].min() + plain["kl_2"].max()).item()
    assert plain["kl_2"].max() < least < plain["kl_1"].min()
    held_up = bound(chain.model, x, noise, 0.7, least)
    torch.testing.assert_close(held_up["loss"], plain["reconstruction"] + 0.7 * (plain["kl_1"] + least), **EXACT)
    assert held_up["kl_2"].equal(plain["kl_2"])
    (gradient,) = torch.autograd.grad(held_up["loss"].sum(), [chain.encoders[1].bias])
    (wanted,) = torch.autograd.grad(0.7 * bound(chain.model, x, noise)["kl_1"].sum(), [chain.encoders[1].bias])
    torch.testing.assert_close(gradient, wanted, **EXACT)


@pytest.mark.parametrize(
    ("objective", "arguments", "words"),
    [
        (ImportanceWeighted, (1.0, 0.5), r"free_bits=0\.5: .*no KL term"),
        (DReG, (0.5, 0.0), r"kl_weight=0\.5: .*no KL term"),
        (ScoreFunction, (1.0, 0.5), r"free_bits=0\.5"),
    ],
)
def test_what_has_no_meaning_is_refused(objective, arguments, words):
    chain = Chain(1)
    with pytest.raises(ValueError, match=words):
        objective(chain.model.likelihood)(chain.model, chain.images(), normal(2, 3, SIZE, seed=15), *arguments)
