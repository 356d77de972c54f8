"""How near drawn images are to real ones, in the features of an image classifier."""

from __future__ import annotations

import torch
from sklearn.metrics import pairwise_distances_chunked
from sklearn.neighbors import NearestNeighbors

from hfgen.core.errors import HfgenError
from hfgen.evaluation.features import Features

NEIGHBOURS = 3


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
    metric = FrechetInceptionDistance(_AsTheyAre(size))
    metric.update(a.features.double(), real=True)
    metric.update(b.features.double(), real=False)
    return metric.compute().item()


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
    """The share of images by their most probable class, float64 (classes,)."""
    counts = torch.bincount(features.probabilities.argmax(1), minlength=features.probabilities.shape[1])
    return counts.double() / len(features)


def _share_within(points, centres, neighbours) -> float:
    found = NearestNeighbors(n_neighbors=neighbours + 1, algorithm="brute").fit(centres)
    radii = found.kneighbors(centres)[0][:, -1]  # the nearest is the centre itself
    chunks = pairwise_distances_chunked(points, centres, reduce_func=lambda part, _: (part <= radii).any(axis=1))
    return float(sum(chunk.sum() for chunk in chunks) / len(points))
