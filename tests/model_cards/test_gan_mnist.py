"""The shipped GAN: it was measured on 10,000 samples, its classes are those asked for, and it claims no likelihood."""

from pathlib import Path

import pytest
import torch

import hfgen
from hfgen.core.errors import HfgenError
from hfgen.data.loading import ImagesInMemory
from hfgen.evaluation.networks import load_feature_network
from hfgen.results import EvaluationResult

CARD = Path(__file__).parents[2] / "model_cards" / "gan-mnist"


def test_the_results_are_of_10000_samples():
    result = EvaluationResult.load(CARD / "results.json")
    assert result.likelihood is None
    assert result.samples.count == result.synthetic.count == 10_000
    metrics = result.metrics
    assert metrics["frechet"].mean <= 1.0
    assert {"recall", "recall_floor", "synthetic_accuracy", "synthetic_accuracy_floor"} <= metrics.keys()


def test_it_is_small_and_has_no_likelihood():
    assert sum(path.stat().st_size for path in CARD.rglob("*") if path.is_file()) <= 5_000_000
    with pytest.raises(HfgenError, match="a GAN has no likelihood"):
        hfgen.evaluate(CARD, dataset_name="digits")


def test_it_draws_the_classes_that_it_is_asked_for():
    """Of 200: of a model that is right in 97 of 100, fewer than 184 are once in 1,000 times."""
    drawn = hfgen.sample(CARD, num_images=200)
    found = load_feature_network()(ImagesInMemory(drawn.images)).probabilities.argmax(1)
    assert (found == torch.arange(200) % 10).sum() >= 184
