"""How near drawn images are to real ones, in the features of an image classifier."""

from __future__ import annotations

from typing import NamedTuple

import torch
from sklearn.metrics import pairwise_distances_chunked
from sklearn.neighbors import NearestNeighbors

from hfgen.core.errors import HfgenError
from hfgen.core.random import Stream, seeded
from hfgen.core.statistics import standard_error
from hfgen.evaluation.features import Features

NEIGHBOURS = 3
LARGEST_SUBSET = 1000
LEAST_SUBSETS = 10


class KernelDistance(NamedTuple):
    """An unbiased estimate, which may be negative, with its standard error (nan of a single subset)."""

    mean: float
    standard_error: float


class _AsTheyAre(torch.nn.Module):
    """For torchmetrics, which wants a network: the features are there already."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features

    def forward(self, features):
        return features


def frechet_distance(a: Features, b: Features) -> float:
    """||mu_a - mu_b||^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) of the features' means and covariances, by torchmetrics.

    On features of another network than Inception's it is not the FID of the literature, and not comparable with it.

    Raises `HfgenError` for no more images than features: the covariance would be singular.

    Source: Heusel et al. 2017, equation 6.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    size = a.features.shape[1]
    few = min(len(a), len(b))
    if few <= size:
        raise HfgenError(
            f"{few} images are too few for {size} features: use more than {size}, better ten times as many"
        )
    metric = FrechetInceptionDistance(_AsTheyAre(size), sync_on_compute=False)  # each process has all features
    metric.update(a.features.double(), real=True)
    metric.update(b.features.double(), real=False)
    return metric.compute().item()


def kernel_distance(a: Features, b: Features) -> KernelDistance:
    """The squared MMD of the features under the kernel (x . y / F + 1)^3, in float64; unlike `frechet_distance` for few images too.

    Both sets are shuffled and cut into as many disjoint subsets of 1,000 at most, ten or more where there are images for it; the
    estimates of the pairs of subsets are independent, and their spread gives the standard error. On features of Inception it is
    the KID.

    Raises `HfgenError` for fewer than 2 images.

    Source: Binkowski et al. 2018, section 4; the estimator: Gretton et al. 2012, lemma 6.
    """
    few = min(len(a), len(b))
    if few < 2:
        raise HfgenError(f"{few} images are too few for a kernel distance: use 2 or more")
    count = few // max(2, min(LARGEST_SUBSET, few // LEAST_SUBSETS))
    pairs = zip(_subsets(a, count, 0), _subsets(b, count, 1), strict=True)
    found = torch.stack([squared_mmd(x, y) for x, y in pairs])
    return KernelDistance(found.mean().item(), standard_error(found))


def squared_mmd(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The unbiased estimate from features (M, F) and (N, F), a float64 scalar; M and N are 2 or more."""
    within = sum(_off_diagonal_mean(_cubic_kernel(z, z)) for z in (x, y))
    return within - 2 * _cubic_kernel(x, y).mean()


def _cubic_kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x.double() @ y.double().T / x.shape[1] + 1) ** 3


def _off_diagonal_mean(gram: torch.Tensor) -> torch.Tensor:
    return (gram.sum() - gram.diagonal().sum()) / (len(gram) * (len(gram) - 1))


def _subsets(features: Features, count: int, key: int) -> list[torch.Tensor]:
    """`count` disjoint ones of equal size: rows may come sorted by class, and are shuffled."""
    order = torch.randperm(len(features), generator=seeded("cpu", 0, Stream.ORDER, key))
    size = len(features) // count
    return list(features.features[order[: count * size]].split(size))


def precision_recall(generated: Features, reference: Features, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """The share of generated images within the reference's manifold, and of reference images within the generated one's.

    The manifold of a set is the union of balls about its images' features that reach to their k-th nearest neighbour in it.

    Raises `HfgenError` for no more images than neighbours.

    Source: Kynkäänniemi et al. 2019, equations 1 and 2.
    """
    few = min(len(generated), len(reference))
    if few <= neighbours:
        raise HfgenError(f"{few} images are too few for {neighbours} neighbours: use more than {neighbours}")
    a, b = generated.features.numpy(), reference.features.numpy()
    return _share_within(a, b, neighbours), _share_within(b, a, neighbours)


def class_frequencies(features: Features) -> torch.Tensor:
    """The share of images by their most probable class, float64 (classes,); of a network with classes."""
    assert features.probabilities is not None
    counts = torch.bincount(features.probabilities.argmax(1), minlength=features.probabilities.shape[1])
    return counts.double() / len(features)


def _share_within(points, centres, neighbours) -> float:
    found = NearestNeighbors(n_neighbors=neighbours + 1, algorithm="brute").fit(centres)
    radii = found.kneighbors(centres)[0][:, -1]  # the nearest is the centre itself
    chunks = pairwise_distances_chunked(points, centres, reduce_func=lambda part, _: (part <= radii).any(axis=1))
    return float(sum(chunk.sum() for chunk in chunks) / len(points))
