"""The terms of an autoencoder against closed forms."""

import torch

from hfgen.core.random import seeded
from hfgen.objectives.autoencoder import MOST_ADAPTIVE, adaptive_weight, gaussian_kl, hinge_loss


def test_the_kl_is_that_of_torch():
    mean, logvar = (torch.randn(3, 2, 4, 4, generator=seeded("cpu", i)).double() for i in range(2))
    q, p = torch.distributions.Normal(mean, (logvar / 2).exp()), torch.distributions.Normal(0.0, 1.0)
    torch.testing.assert_close(gaussian_kl(mean, logvar), torch.distributions.kl_divergence(q, p).sum((1, 2, 3)))


def test_the_hinge_is_zero_where_both_are_told_apart_by_more_than_one():
    real, made = torch.tensor([[2.0], [0.0], [-1.0]]), torch.tensor([[-3.0], [0.0], [1.0]])
    assert hinge_loss(real, made).tolist() == [0.0, 1.0, 2.0]


def test_the_adaptive_weight_is_the_ratio_of_gradients_at_the_last_layer():
    weight = torch.tensor([3.0, 4.0], requires_grad=True)
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([6.0, 8.0])
    found = adaptive_weight((weight * a).sum(), (weight * b).sum(), weight)
    # |a| / (|b| + 1e-4)
    torch.testing.assert_close(found, torch.tensor(5.0**0.5 / (10 + 1e-4)))
    assert not found.requires_grad
    assert adaptive_weight((weight * 1e6).sum(), (weight * 0).sum(), weight) == MOST_ADAPTIVE
