"""The shipped latent diffusion model: it loads as a stock pipeline, and its recorded bound is that of its weights."""

import math
from pathlib import Path

import pytest
from diffusers import DiffusionPipeline, LDMPipeline

import hfgen
from hfgen.results import EvaluationResult

CARD = Path(__file__).parents[2] / "model_cards" / "ldm-mnist"
TERMS = ("reconstruction", "entropy", "prior", "diffusion", "decoder")


def recorded():
    return EvaluationResult.load(CARD / "results.json").likelihood.metrics


def test_its_weights_take_at_most_5_mb():
    assert sum(path.stat().st_size for path in CARD.rglob("*.safetensors")) <= 5_000_000


def test_the_recorded_terms_add_up_to_a_bound_below_that_of_a_standard_normal_prior():
    """E log q(z|x) and what N(0, I) would cost, at least half a squared unit of variance for each of 196 latents."""
    metrics = {name: recorded()[f"vlb_{name}"].mean for name in (*TERMS, "total")}
    assert metrics["total"] == pytest.approx(sum(metrics[name] for name in TERMS), abs=1e-6)
    normal = 196 / 2 * (1 + math.log(2 * math.pi))
    assert metrics["total"] < metrics["reconstruction"] + metrics["entropy"] + normal


def test_stock_diffusers_loads_it():
    assert type(DiffusionPipeline.from_pretrained(CARD)) is LDMPipeline


@pytest.mark.slow
def test_recorded_bound_is_that_of_the_weights(mnist_path):
    """On 1,000 test images and 4,000 evaluations, within four standard errors of these and of those recorded."""
    found = hfgen.evaluate(
        CARD, dataset_name=str(mnist_path), split="test", max_images=1000, likelihood=True, evaluations=4000
    )
    for name in ("total", "reconstruction", "entropy"):
        metric, told = (metrics[f"vlb_{name}"] for metrics in (found.likelihood.metrics, recorded()))
        error = math.hypot(metric.standard_error, told.standard_error)
        assert metric.mean == pytest.approx(told.mean, abs=4 * error), name
