"""The shipped VAEs: they load for strangers, and the recorded numbers are those of their weights."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import load_dataset
from huggingface_hub import ModelCard
from sklearn.neighbors import KNeighborsClassifier

import hfgen.models.modeling_hfgen_vae as modeling
import hfgen.pipelines.pipeline_hfgen_vae as pipeline_code
from hfgen.data.evaluation_images import load_evaluation_images
from hfgen.hub.loading import load
from hfgen.likelihood import vae_bounds
from hfgen.results import EvaluationResult

CARDS = Path(__file__).parents[2] / "model_cards"
NAMES = ["vae-mnist-2d", "vae-mnist-50d", "vae-mnist-50d-iw", "vae-mnist-8bit", "vae-mnist-conv", "vae-mnist-grey"]
PICTURES = {"samples.png", "reconstructions.png", "interpolations.png", "latents.png", "loss.png"}

STRANGER = """
import sys
import torch
from diffusers import DiffusionPipeline
pipeline = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)
images = pipeline(3, torch.Generator().manual_seed(0), output_type="np").images
assert images.shape == (3, 28, 28, 1), images.shape
assert pipeline.reconstruct(images, output_type="np").images.shape == images.shape
"""


def results(name):
    return json.loads((CARDS / name / "results.json").read_text())


def metrics(name):
    return EvaluationResult.load(CARDS / name / "results.json").metrics


def metric(name, key):
    return metrics(name)[key].mean


def test_every_card_is_tested():
    assert sorted(NAMES) == sorted(path.name for path in CARDS.glob("vae-*") if path.is_dir())


@pytest.mark.parametrize("name", NAMES)
def test_folder_is_a_repository_with_code_of_at_most_3_mb(name):
    folder = CARDS / name
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 3_000_000
    assert not [path for path in files if path.suffix in (".bin", ".pkl", ".pt", ".ckpt")]
    assert {path.name for path in files} >= PICTURES
    assert (folder / "pipeline_hfgen_vae.py").read_text() == Path(pipeline_code.__file__).read_text()
    assert (folder / "vae" / "modeling_hfgen_vae.py").read_text() == Path(modeling.__file__).read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_stranger_loads_it(name, stranger):
    stranger.run(STRANGER, CARDS / name, token=None).check()


@pytest.mark.parametrize("name", NAMES)
def test_card_tells_the_recorded_numbers_and_no_path(name):
    card, recorded = ModelCard.load(CARDS / name / "README.md"), results(name)
    assert card.data.library_name == "diffusers"
    assert f"{recorded['parameters']:,} parameters" in card.content
    assert recorded["images"] == 10_000
    assert recorded["split"] == "test"
    for key, value in metrics(name).items():
        digits = 2 if value.unit.startswith("nats") else 3
        assert f"{value.mean:.{digits}f}" in card.content, key
    for path in [*(CARDS / name).rglob("*.json"), CARDS / name / "README.md"]:
        assert '"_name_or_path"' not in path.read_text()
        assert not re.search(r"[\s\"'(=]/\w+/", path.read_text()), f"an absolute path in {path.name}"


def test_likelihoods_reach_what_was_published():
    """Burda et al. 2016, table 1: 86.76 nats with k = 1 and 84.78 with k = 50, one stochastic layer of 50."""
    for name, most in (("vae-mnist-50d", 86.8), ("vae-mnist-50d-iw", 85.5)):
        assert results(name)["iw_samples"] == 5000
        assert metric(name, "negative_iw_bound") <= most


def test_grey_pixels_are_a_pseudo_likelihood_under_100_nats():
    recorded = results("vae-mnist-grey")
    assert recorded["quantity"].startswith("pseudo")
    assert recorded["parameters"] <= 400_000
    assert load(CARDS / "vae-mnist-grey").module.config.latent_size == 32
    assert metric("vae-mnist-grey", "negative_elbo") < 100
    assert "NLL" not in json.dumps(recorded).replace("not an NLL", "")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_recorded_bound_is_that_of_the_weights(name, mnist_path):
    """With one sample for each of the 10,000 images, binarised as recorded: a few images unlike the training's vary by hundreds
    of nats with z, so that the mean may differ by two of its standard errors. Other weights differ by more nats than that."""
    vae = load(CARDS / name).module.eval()
    images = load_evaluation_images(mnist_path, "test", shape=(1, 28, 28), device=torch.device("cpu")).images
    recorded = metrics(name)["negative_elbo"]
    bounds = vae_bounds(vae, images, num_samples=1, seed=results(name)["seed"], batch_size=500)
    assert bounds.mean("kl") == pytest.approx(metric(name, "kl"), abs=0.05)
    assert bounds.mean("negative_elbo") == pytest.approx(recorded.mean, abs=2 * recorded.standard_error)
    assert metric(name, "negative_iw_bound") < bounds.mean("negative_elbo")


@pytest.mark.slow
def test_manifold_of_two_latents_shows_all_ten_digits(mnist_path):
    train = load_dataset(mnist_path)["train"].select(range(10_000))
    pixels = np.stack([np.asarray(image) for image in train["image"]]).reshape(10_000, -1) / 255
    images = load(CARDS / "vae-mnist-2d").pipeline.manifold(20, output_type="np").images.reshape(400, -1)
    predicted = KNeighborsClassifier(5).fit(pixels, train["label"]).predict(images)
    counts = np.bincount(predicted, minlength=10)
    assert counts.min() >= 3, counts
