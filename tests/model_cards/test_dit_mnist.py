"""The shipped transformer of latents: stock diffusers draws the class that it is asked for."""

from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, DiTPipeline

from hfgen.core.media import unit_to_uint8
from hfgen.data.loading import ImagesInMemory
from hfgen.evaluation.networks import load_feature_network
from hfgen.results import EvaluationResult

CARD = Path(__file__).parents[2] / "model_cards" / "dit-mnist"


def test_its_weights_take_at_most_5_mb():
    assert sum(path.stat().st_size for path in CARD.rglob("*.safetensors")) <= 5_000_000


def test_classes_are_heeded_in_at_least_97_percent_of_the_samples():
    result = EvaluationResult.load(CARD / "results.json")
    assert result.samples.count == 5_000
    assert result.metrics["class_accuracy"].mean >= 0.97
    assert min(metric.mean for key, metric in result.metrics.items() if key.startswith("class_accuracy_")) >= 0.9
    terms = ("reconstruction", "entropy", "prior", "diffusion", "decoder")
    bound = sum(result.metrics[f"vlb_{name}_bits_per_dim"].mean for name in terms)
    assert result.metrics["vlb_total_bits_per_dim"].mean == pytest.approx(bound, abs=1e-6)


@pytest.mark.slow
def test_stock_diffusers_draws_the_class_that_it_is_asked_for():
    """Of 30 draws in 10 steps: of a model that is right in 97 of 100, fewer than 26 are right once in 1,000 times."""
    pipeline = DiffusionPipeline.from_pretrained(CARD)
    assert type(pipeline) is DiTPipeline
    pipeline.set_progress_bar_config(disable=True)
    asked = torch.arange(30) % 10
    drawn = pipeline(
        class_labels=asked.tolist(),
        guidance_scale=1.5,
        num_inference_steps=10,
        output_type="np",
        generator=torch.Generator().manual_seed(0),
    ).images
    images = unit_to_uint8(torch.from_numpy(drawn).movedim(-1, 1)[:, :1])
    found = load_feature_network()(ImagesInMemory(images)).probabilities.argmax(1)
    assert (found == asked).sum() >= 26
