"""The shipped variational diffusion model: its recorded bound is that of its weights, and its pictures are digits."""

from pathlib import Path

import pytest
import torch

import hfgen
from hfgen.results import EvaluationResult

pytestmark = pytest.mark.slow

CARD = Path(__file__).parents[2] / "model_cards" / "vdm-mnist"


def test_recorded_bound_is_that_of_the_weights(mnist_path):
    """On 200 test images at 5 times each, within four standard errors of these."""
    found = hfgen.evaluate(CARD, dataset_name=str(mnist_path), split="test", max_images=200, evaluations=1000)
    recorded = EvaluationResult.load(CARD / "results.json")
    for name in ("total", "prior", "reconstruction", "diffusion"):
        metric, told = (r.metrics[f"vlb_{name}_bits_per_dim"] for r in (found, recorded))
        assert metric.mean == pytest.approx(told.mean, abs=4 * metric.standard_error), name


def test_samples_have_the_ink_of_mnist():
    """MNIST's mean is 0.1307; that of 16 images varies by 0.01 (one image: 0.04)."""
    ink = hfgen.sample(CARD, num_images=16, scheduler="sde-dpmsolver++", steps=20).images.float() / 255
    assert 0.09 < ink.mean() < 0.17
    assert ink[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].max() < 0.1


def test_it_is_small_enough_and_its_schedule_increases():
    assert sum(path.stat().st_size for path in CARD.rglob("*") if path.is_file()) <= 5_000_000
    schedule = hfgen.load(CARD).pipeline.vdm.schedule
    schedule.check()
    gamma_0, gamma_1 = (end.item() for end in schedule.ends())
    assert gamma_0 < -13
    assert gamma_1 > 5
    assert schedule(torch.tensor([0.5])).item() < (gamma_0 + gamma_1) / 2
