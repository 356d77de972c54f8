"""Nearest training images: against a search one by one, whatever the blocks."""

import pytest
import torch

from hfgen.data.loading import ImagesInMemory
from hfgen.evaluation import neighbours
from hfgen.evaluation.neighbours import distance_metrics, nearest_training_images


def images(count, seed, channels=3):
    pixels = torch.randint(0, 256, (count, channels, 4, 4), generator=torch.Generator().manual_seed(seed))
    return pixels.to(torch.uint8)


@pytest.mark.parametrize("at_once", [1, 3 * 48, 1 << 20])
def test_the_nearest_of_all_blocks(monkeypatch, at_once):
    monkeypatch.setattr(neighbours, "VALUES_AT_ONCE", at_once)
    wanted, training = images(5, 0), images(11, 1)
    found = nearest_training_images(wanted, ImagesInMemory(training))
    for image, nearest, distance in zip(wanted, found.images, found.distances, strict=True):
        errors = [(image.double() - other.double()).square().mean().sqrt() for other in training]
        best = int(torch.stack(errors).argmin())
        assert torch.equal(nearest, training[best])
        assert distance.item() == pytest.approx(errors[best].item(), rel=1e-12)


def test_a_repeated_training_image_is_found_at_0():
    training = images(30, 2)
    found = nearest_training_images(training[[7, 3]], ImagesInMemory(training))
    assert torch.equal(found.images, training[[7, 3]])
    assert found.distances.tolist() == [0, 0]


def test_distances_are_told_beside_those_of_real_images():
    training = ImagesInMemory(images(30, 2))
    copied, real = (nearest_training_images(x, training) for x in (training.images[:4], images(6, 3)))
    metrics = distance_metrics(copied, real)
    assert metrics["nearest_training"].mean == 0
    floor = metrics["nearest_training_floor"]
    assert floor.mean == pytest.approx(real.distances.mean().item())
    assert floor.standard_error == pytest.approx(real.distances.std().item() / 6**0.5)
    assert "held-out images" in floor.name
