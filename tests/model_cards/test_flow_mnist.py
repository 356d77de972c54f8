"""The shipped flow: its recorded bounds are those of its weights, and its map goes back and forth."""

from pathlib import Path

import pytest
import torch

import hfgen
from hfgen.results import EvaluationResult

CARD = Path(__file__).parents[2] / "model_cards" / "flow-mnist"
BOUND, WEIGHTED = "negative_elbo_bits_per_dim", "negative_iw_bound_bits_per_dim"


def recorded():
    return EvaluationResult.load(CARD / "results.json")


def test_it_was_measured_on_all_test_images():
    result = recorded()
    assert (result.images, result.split, result.likelihood.facts["iw_samples"]) == (10_000, "test", 16)
    assert result.samples.count == 10_000
    assert 1.0 < result.metrics[WEIGHTED].mean <= result.metrics[BOUND].mean


def test_it_is_small_and_its_map_goes_back_and_forth():
    assert sum(path.stat().st_size for path in CARD.rglob("*") if path.is_file()) <= 5_000_000
    pipeline = hfgen.load(CARD).pipeline
    images = pipeline(batch_size=4, generator=torch.Generator().manual_seed(0), output_type="pt").images
    noise = pipeline.encode(images)
    again = pipeline(latents=noise, output_type="pt").images
    assert (again - images).abs().max() <= 0.5 / 255 + 1e-4  # the noise may have been of any of 256 levels' width


@pytest.mark.slow
def test_recorded_bounds_are_those_of_the_weights(mnist_path):
    """On 300 test images, within four standard errors of these."""
    options = {"iw_samples": 16, "likelihood": True}
    found = hfgen.evaluate(CARD, dataset_name=str(mnist_path), split="test", max_images=300, **options)
    for name in (BOUND, WEIGHTED):
        metric, told = (result.metrics[name] for result in (found, recorded()))
        assert metric.mean == pytest.approx(told.mean, abs=4 * metric.standard_error), name
