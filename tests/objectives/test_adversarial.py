"""The losses of two networks against each other, by their closed forms."""

import math

import pytest
import torch

from hfgen.objectives.adversarial import ADVERSARIAL, r1_penalty


def test_non_saturating_losses_are_cross_entropies_of_probabilities():
    loss = ADVERSARIAL["non_saturating"]()
    real, made = torch.tensor([0.0, 3.0]), torch.tensor([0.0, -2.0])
    told = real.sigmoid(), made.sigmoid()
    expected = -told[0].log() - (1 - told[1]).log()
    torch.testing.assert_close(loss.discriminator(real, made), expected)
    assert loss.discriminator(real, made)[0].item() == pytest.approx(2 * math.log(2))
    torch.testing.assert_close(loss.generator(made), -told[1].log())


def test_the_best_discriminator_of_two_gaussians_has_the_loss_of_their_divergence():
    """With D* = p / (p + q) the loss is 2 ln 2 - 2 JSD (Goodfellow et al. 2014, theorem 1), here by quadrature."""
    x = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    p, q = (torch.distributions.Normal(mean, 1.0).log_prob(x).exp() for mean in (0.0, 1.5))
    logit = p.log() - q.log()
    loss = ADVERSARIAL["non_saturating"]()
    zero = torch.zeros_like(logit)
    half = math.log(2)  # of the other side, whose logit is held at 0
    found = torch.trapezoid(p * (loss.discriminator(logit, zero) - half), x)
    found = found + torch.trapezoid(q * (loss.discriminator(zero, logit) - half), x)
    middle = (p + q) / 2
    divergence = torch.trapezoid(p * (p / middle).log() + q * (q / middle).log(), x) / 2
    assert found.item() == pytest.approx(2 * math.log(2) - 2 * divergence.item(), abs=1e-6)


def test_hinge_losses_end_at_the_margins():
    loss = ADVERSARIAL["hinge"]()
    real, made = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([-1.0, -3.0, 0.5])
    assert loss.discriminator(real, made).tolist() == [0, 0, 2.5]
    assert loss.generator(made).tolist() == [1, 3, -0.5]


def test_r1_is_the_squared_gradient_of_each_image():
    """Of D(x) = a . x^2 it is sum (2 a x)^2; and it has a gradient of its own in a."""
    a = torch.tensor([1.0, -2.0, 0.5], requires_grad=True)
    x = torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, -1.0]], requires_grad=True)
    penalty = r1_penalty((x.square() * a).sum(1), x)
    torch.testing.assert_close(penalty, (2 * a * x).square().sum(1))
    (gradient,) = torch.autograd.grad(penalty.sum(), a)
    torch.testing.assert_close(gradient, (8 * a * x.square()).sum(0))
