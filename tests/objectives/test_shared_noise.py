"""Noise that frames share: its covariance is known."""

import pytest
import torch

from hfgen.objectives import shared_noise


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_covariance_of_frames(share):
    """1 within a frame, lambda between frames, 0 between values: of 40,000 numbers within 5 standard errors."""
    generator = torch.Generator().manual_seed(0)
    count = 40_000
    shared = torch.randn(count, 2, 1, 1, generator=generator, dtype=torch.float64)
    own = torch.randn(count, 3, 2, 1, 1, generator=generator, dtype=torch.float64)
    noise = shared_noise(shared, own, share).flatten(1)
    covariance = noise.T @ noise / count
    frames = torch.full((3, 3), share, dtype=torch.float64) + (1 - share) * torch.eye(3, dtype=torch.float64)
    expected = torch.kron(frames, torch.eye(2, dtype=torch.float64))
    # a product of two standard normals has a variance of 1 + rho^2, which is 2 at most
    assert (covariance - expected).abs().max() < 5 * (2 / count) ** 0.5


def test_the_ends():
    shared, own = torch.randn(2, 1, 4, 4), torch.randn(2, 3, 1, 4, 4)
    assert torch.equal(shared_noise(shared, own, 0.0), own)
    assert torch.equal(shared_noise(shared, own, 1.0), shared[:, None].expand_as(own))
