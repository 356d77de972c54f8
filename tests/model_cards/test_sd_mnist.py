"""The shipped text-to-image model: stock diffusers draws what it is asked for, in the recorded share of draws."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline

from hfgen.core.media import unit_to_uint8
from hfgen.data.loading import ImagesInMemory
from hfgen.evaluation.networks import load_feature_network
from hfgen.results import EvaluationResult

CARD = Path(__file__).parents[2] / "model_cards" / "sd-mnist"
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def test_it_takes_at_most_5_mb():
    assert sum(path.stat().st_size for path in CARD.rglob("*") if path.is_file()) <= 5_000_000


def test_words_are_heeded_in_at_least_97_percent_of_1000_draws():
    words = json.loads((CARD.parent / "sd-mnist-words.json").read_text())
    assert words["settings"]["count"] == 1000
    assert len(words["by_class"]) == 10
    assert words["right"] >= 0.97


def test_the_results_are_of_10000_samples():
    result = EvaluationResult.load(CARD / "results.json")
    assert result.samples.count == 10_000
    assert result.samples.metrics["frechet"].mean <= 0.1


@pytest.mark.slow
def test_stock_diffusers_draws_what_it_is_asked_for():
    """Of 30 draws in 10 steps: of a model that is right in 97 of 100, fewer than 26 are right once in 1,000 times."""
    pipeline = DiffusionPipeline.from_pretrained(CARD)
    assert type(pipeline) is StableDiffusionPipeline
    pipeline.set_progress_bar_config(disable=True)
    asked = torch.arange(30) % 10
    prompts = [f"a handwritten {WORDS[i]}" for i in asked]
    images = pipeline(
        prompts, num_inference_steps=10, output_type="pt", generator=torch.Generator().manual_seed(0)
    ).images
    found = load_feature_network()(ImagesInMemory(unit_to_uint8(images))).probabilities.argmax(1)
    assert (found == asked).sum() >= 26
