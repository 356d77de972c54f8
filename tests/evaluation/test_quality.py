"""Distances between sets of features, against closed forms and loops."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from hfgen.core.errors import HfgenError
from hfgen.evaluation.features import Features
from hfgen.evaluation.quality import (
    _subsets,
    class_frequencies,
    frechet_distance,
    kernel_distance,
    precision_recall,
    squared_mmd,
)
from hfgen.evaluation.samples import quality_metrics


def features(values, classes=None):
    classes = torch.zeros(len(values), dtype=torch.long) if classes is None else torch.as_tensor(classes)
    probabilities = torch.nn.functional.one_hot(classes, 4).float() * 0.6 + 0.1
    return Features(torch.as_tensor(values), probabilities)


def normal(count, size, seed=0, dtype=torch.float64):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def white(count, size, seed=0):
    """Values whose mean is 0 and whose covariance (of the sample, over n - 1) is the identity, to rounding."""
    x = normal(count, size, seed)
    x = x - x.mean(0)
    return x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T


def test_frechet_distance_of_gaussians_with_diagonal_covariances():
    """||mu_a - mu_b||^2 + sum (sigma_a - sigma_b)^2"""
    means = torch.tensor([[0.0, 1.0, -2.0, 5.0, 0.3], [0.5, 1.0, -1.0, 5.0, -0.3]], dtype=torch.float64)
    deviations = torch.tensor([[1.0, 2.0, 0.5, 0.1, 3.0], [1.5, 2.0, 0.1, 0.4, 1.0]], dtype=torch.float64)
    a, b = (white(n, 5, n) * s + m for n, s, m in zip((60, 90), deviations, means, strict=True))
    expected = ((means[0] - means[1]).square() + (deviations[0] - deviations[1]).square()).sum().item()
    assert frechet_distance(features(a), features(b)) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(features(b), features(a)) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_against_scipy():
    """Correlated features that share no axes, in float32 as a network gives them; the reference in float64."""
    a = normal(80, 12, 0) @ normal(12, 12, 1) + 3
    b = normal(50, 12, 2) @ normal(12, 12, 3)
    a, b = a.float(), b.float()
    c_a, c_b = (np.cov(x.double().numpy().T) for x in (a, b))
    shift = (a.double().mean(0) - b.double().mean(0)).square().sum().item()
    expected = shift + np.trace(c_a + c_b - 2 * sqrtm(c_a @ c_b).real)
    assert frechet_distance(features(a), features(b)) == pytest.approx(expected, rel=1e-9)


def test_equal_sets_have_no_distance_and_shifted_ones_that_of_their_means():
    a = normal(100, 8, 4).float()
    assert abs(frechet_distance(features(a), features(a.clone()))) < 1e-9
    # float32: x + 0.5 is rounded
    assert frechet_distance(features(a), features(a + 0.5)) == pytest.approx(8 * 0.25, rel=1e-5)


@pytest.mark.parametrize(("first", "second"), [(8, 50), (50, 8), (3, 3)])
def test_no_more_images_than_features_are_too_few(first, second):
    few = min(first, second)
    with pytest.raises(HfgenError, match=f"^{few} images are too few for 8 features: use more than 8"):
        frechet_distance(features(normal(first, 8)), features(normal(second, 8)))
    assert frechet_distance(features(normal(9, 8)), features(normal(9, 8, 1))) > 0


def by_loops(generated, reference, neighbours):
    """Precision by its definition."""
    inside = 0
    for x in generated:
        for i, centre in enumerate(reference):
            distances = sorted(torch.dist(centre, other).item() for j, other in enumerate(reference) if j != i)
            if torch.dist(x, centre).item() <= distances[neighbours - 1]:
                inside += 1
                break
    return inside / len(generated)


@pytest.mark.parametrize("neighbours", [1, 3, 5])
@pytest.mark.parametrize("shift", [0.0, 0.7, 2.0])
def test_precision_and_recall_against_loops(neighbours, shift):
    a, b = 1.3 * normal(30, 3, 5) + shift, normal(22, 3, 6)
    expected = (by_loops(a, b, neighbours), by_loops(b, a, neighbours))
    found = precision_recall(features(a.float()), features(b.float()), neighbours)
    assert found == pytest.approx(expected)
    if shift == 0.7:
        assert 0 < expected[0] < 1
        assert 0 < expected[1] < 1


def test_three_neighbours_unless_told():
    a, b = features(1.5 * normal(30, 3, 5).float()), features(normal(22, 3, 6).float())
    assert precision_recall(a, b) == precision_recall(a, b, 3) != precision_recall(a, b, 1)


def test_equal_sets_cover_each_other():
    a = features(normal(40, 4, 7).float())
    assert precision_recall(a, a) == (1, 1)


def test_sets_far_apart_do_not_meet():
    a, b = (features(normal(40, 4, seed).float() + far) for seed, far in ((8, 0), (9, 1000)))
    assert precision_recall(a, b) == (0, 0)


def test_a_lost_mode_lowers_recall_alone():
    modes = normal(60, 4, 10).float() + torch.tensor([0.0, 50.0, 100.0]).repeat_interleave(20)[:, None]
    one_mode = features(modes[:20])
    assert precision_recall(one_mode, features(modes)) == pytest.approx((1, 1 / 3))
    assert precision_recall(features(modes), one_mode) == pytest.approx((1 / 3, 1))


def test_no_more_images_than_neighbours_are_too_few():
    with pytest.raises(HfgenError, match=r"^3 images are too few for 3 neighbours"):
        precision_recall(features(normal(3, 2)), features(normal(30, 2)))


def test_class_frequencies():
    found = class_frequencies(features(normal(8, 2), [0, 0, 0, 0, 1, 1, 3, 3]))
    assert found.tolist() == [0.5, 0.25, 0, 0.25]
    assert found.dtype == torch.float64


def test_metrics_with_their_floor():
    reference = features(normal(40, 4, 0).float(), [0, 1, 2, 3] * 10)
    generated = features(normal(40, 4, 1).float() * 2, [0, 1, 2, 2] * 10)
    floor = features(normal(40, 4, 2).float(), [0, 1, 2, 3] * 10)
    metrics = quality_metrics(generated, reference, floor, "tiny network")
    assert {key for key in metrics if not key.endswith("_floor")} == {key[:-6] for key in metrics if "_floor" in key}
    for key, features_ in (("", generated), ("_floor", floor)):
        precision, recall = precision_recall(features_, reference)
        assert metrics[f"frechet{key}"].mean == frechet_distance(features_, reference)
        assert metrics[f"precision{key}"].mean == precision
        assert metrics[f"recall{key}"].mean == recall
        assert metrics[f"confidence{key}"].mean == pytest.approx(0.7)
    # a quarter of the images is in class 2 in place of 3
    assert metrics["class_shift"].mean == pytest.approx(0.25)
    assert metrics["class_shift_floor"].mean == 0
    assert "tiny network features (not FID)" in metrics["frechet"].name
    assert all("training images" in metric.name for key, metric in metrics.items() if key.endswith("_floor"))


def unbiased_mmd(x, y):
    """By its sums over pairs of different images, in float64."""
    x, y = x.double().numpy(), y.double().numpy()

    def kernel(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    def within(z):
        pairs = [kernel(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j]
        return sum(pairs) / len(pairs)

    across = [kernel(a, b) for a in x for b in y]
    return within(x) + within(y) - 2 * sum(across) / len(across)


def test_the_squared_mmd_against_its_sums():
    x, y = normal(7, 3, 0).float(), 1.5 * normal(5, 3, 1).float() + 0.5
    assert squared_mmd(x, y).item() == pytest.approx(unbiased_mmd(x, y), rel=1e-12)
    assert squared_mmd(x, y).dtype == torch.float64


def test_the_kernel_distance_is_the_mean_of_disjoint_subsets():
    """Of 60 and 43 images: ten pairs of subsets of 6 and 4, whose spread over the root of ten is the error."""
    a, b = features(1.5 * normal(60, 3, 2).float()), features(normal(43, 3, 3).float())
    found = kernel_distance(a, b)
    cuts = zip(_subsets(a, 10, 0), _subsets(b, 10, 1), strict=True)
    parts = [unbiased_mmd(x, y) for x, y in cuts]
    assert found.mean == pytest.approx(np.mean(parts), rel=1e-10)
    assert found.standard_error == pytest.approx(np.std(parts, ddof=1) / np.sqrt(10), rel=1e-10)
    rows = {tuple(row.tolist()) for part in _subsets(a, 10, 0) for row in part}
    assert len(rows) == 60
    assert rows == {tuple(row.tolist()) for row in a.features}


def test_rows_that_come_sorted_are_mixed():
    """Two modes one after the other, as the classes of a folder are: unmixed subsets would hold one each."""
    a, b = (
        features(normal(200, 3, s).float() + torch.tensor([0.0, 9.0]).repeat_interleave(100)[:, None]) for s in (4, 5)
    )
    found = kernel_distance(a, b)
    assert abs(found.mean) < 4 * found.standard_error


def test_the_kernel_distance_is_unbiased_and_its_error_is_that_of_repetitions():
    """Over 300 pairs of sets of one distribution: the mean is 0 within 4 of its errors, and the mean square error of a value is the
    variance over the repetitions within 4 standard deviations of a variance, 4 sqrt(2 / 300) = 33 %, half as much again for its tails."""
    found = [kernel_distance(features(normal(30, 2, 2 * i)), features(normal(30, 2, 2 * i + 1))) for i in range(300)]
    means, errors = (np.array([getattr(x, name) for x in found]) for name in ("mean", "standard_error"))
    assert abs(means.mean()) < 4 * means.std(ddof=1) / np.sqrt(300)
    assert np.mean(errors**2) == pytest.approx(means.var(ddof=1), rel=0.5)


def test_a_kernel_distance_of_few_images():
    assert np.isfinite(kernel_distance(features(normal(5, 8)), features(normal(4, 8, 1))).standard_error)
    assert np.isnan(kernel_distance(features(normal(2, 8)), features(normal(3, 8, 1))).standard_error)
    with pytest.raises(HfgenError, match=r"^1 images are too few for a kernel distance: use 2 or more$"):
        kernel_distance(features(normal(1, 8)), features(normal(5, 8)))


def test_too_few_images_have_no_frechet_distance_but_a_kernel_distance():
    few, many = features(normal(5, 8).float()), features(normal(50, 8, 1).float())
    assert "frechet" not in quality_metrics(few, many, many, "n")
    assert "frechet" not in quality_metrics(many, many, few, "n")
    assert {"kid", "kid_floor"} <= set(quality_metrics(few, many, many, "n"))
