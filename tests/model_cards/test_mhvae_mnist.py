"""The shipped hierarchical VAEs: they load for strangers, and the recorded numbers are those of their weights."""

import json
import math
from pathlib import Path

import pytest
import torch

import hfgen
from hfgen.results import EvaluationResult

CARDS = Path(__file__).parents[2] / "model_cards"
NAMES = ["mhvae-mnist-2", "mhvae-mnist-2-dreg", "mhvae-mnist-8bit"]

STRANGER = """
import sys
import torch
from diffusers import DiffusionPipeline
pipeline = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)
images = pipeline(3, torch.Generator().manual_seed(0), output_type="np").images
assert images.shape == (3, 28, 28, 1), images.shape
assert pipeline.reconstruct(images, layer=pipeline.num_layers, output_type="np").images.shape == images.shape
"""


def recorded(name):
    return EvaluationResult.load(CARDS / name / "results.json")


def test_every_card_is_tested():
    assert sorted(NAMES) == sorted(path.name for path in CARDS.glob("mhvae-*") if path.is_dir())


@pytest.mark.parametrize("name", NAMES)
def test_its_weights_take_at_most_3_mb(name):
    assert sum(path.stat().st_size for path in (CARDS / name).rglob("*.safetensors")) <= 3_000_000


def test_two_layers_reach_what_was_reproduced():
    """A reproduction of Burda et al. 2016, table 1, has 84.83 nats with k = 1 and two stochastic layers; they have 85.33."""
    result = recorded("mhvae-mnist-2")
    assert result.images == 10_000
    assert result.metrics["negative_iw_bound"].mean <= 84.8
    assert json.loads((CARDS / "mhvae-mnist-2" / "vae" / "config.json").read_text())["latent_sizes"] == [100, 50]


def test_fifty_samples_in_training_reach_further():
    """Burda et al. 2016 have 82.90 with k = 50 and two stochastic layers, and so has the reproduction but for 0.08."""
    one, fifty = recorded("mhvae-mnist-2"), recorded("mhvae-mnist-2-dreg")
    assert fifty.images == 10_000
    assert fifty.metrics["negative_iw_bound"].mean <= min(83.5, one.metrics["negative_iw_bound"].mean - 1)


def test_a_markov_chain_of_two_layers_beats_those_of_bit_swap():
    """1.267 bits/dim is the best of Kingma et al. 2019, with four layers and seven times as many parameters; 1.25 was the aim."""
    result = recorded("mhvae-mnist-8bit")
    assert result.images == 10_000
    assert result.metrics["negative_iw_bound_bits_per_dim"].mean <= 1.25
    assert len(result.likelihood.facts["latents"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_stranger_loads_it(name, stranger):
    stranger.run(STRANGER, CARDS / name, token=None).check()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_recorded_bound_is_that_of_the_weights(name, mnist_path):
    """On 1,000 test images, binarised as recorded, within four standard errors of these and of those recorded."""
    found = hfgen.evaluate(CARDS / name, dataset_name=str(mnist_path), split="test", max_images=1000, iw_samples=1)
    for key in ("negative_elbo", "kl_1", "kl_2"):
        metric, told = (result.metrics[key] for result in (found, recorded(name)))
        assert metric.mean == pytest.approx(
            told.mean, abs=4 * math.hypot(metric.standard_error, told.standard_error)
        ), key


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_samples_have_the_ink_of_mnist(name):
    """MNIST's mean is 0.1307; that of 64 images varies by 0.005 (one image: 0.04)."""
    ink = hfgen.sample(CARDS / name, num_images=64).images.float() / 255
    assert 0.10 < ink.mean() < 0.16
    assert torch.unique(ink.flatten(1), dim=0).shape[0] == 64
