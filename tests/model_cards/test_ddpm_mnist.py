"""The shipped MNIST model: it loads as a stock pipeline, and what it draws are digits."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import load_dataset
from diffusers import DDPMPipeline, DiffusionPipeline
from huggingface_hub import ModelCard
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

from hfgen.configs.sampling import SamplingConfig
from hfgen.hub.loading import load
from hfgen.sampling.sample import sample_model

pytestmark = pytest.mark.slow

CARD = Path(__file__).parents[2] / "model_cards" / "ddpm-mnist"


@pytest.fixture(scope="module")
def samples():
    options = {"scheduler": "dpmsolver++", "steps": 20}
    return sample_model(load(CARD), SamplingConfig(num_images=64, seed=0, options=options)).images


def test_folder_is_a_stock_repository_of_at_most_3_mb():
    assert type(DiffusionPipeline.from_pretrained(CARD)) is DDPMPipeline
    files = [path for path in CARD.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files if path.suffix == ".safetensors") <= 3_000_000
    assert not [path for path in files if path.suffix in (".bin", ".pkl", ".pt", ".ckpt", ".py")]


def test_card_and_configs_tell_what_is_true_and_no_path():
    card = ModelCard.load(CARD / "README.md")
    assert card.data.library_name == "diffusers"
    pipeline = DiffusionPipeline.from_pretrained(CARD)
    assert f"{sum(p.numel() for p in pipeline.unet.parameters()):,} parameters" in card.content
    for path in [*CARD.rglob("*.json"), CARD / "README.md"]:
        assert "_name_or_path" not in path.read_text()
        assert not re.search(r"[\s\"'(=]/\w+/", path.read_text()), f"an absolute path in {path.name}"
    assert json.loads((CARD / "scheduler" / "scheduler_config.json").read_text())["_class_name"] == "DDPMScheduler"
    assert min(Image.open(CARD / "samples.png").size) >= 8 * 28


@pytest.mark.slow
def test_samples_have_the_ink_of_mnist(samples):
    """MNIST's mean is 0.1307; that of 64 images varies by 0.005 (one image: 0.04)."""
    ink = samples.float().div(255)
    assert 0.10 < ink.mean() < 0.16
    assert ink[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].max() < 0.1


@pytest.mark.slow
def test_samples_are_digits_of_all_classes_as_near_to_training_images_as_test_images_are(samples, mnist_path):
    """Nearest of 10,000 training images: a digit never seen lies at some distance, a sample may lie 15 % further."""
    data = load_dataset(mnist_path)

    def pixels(split, count):
        rows = data[split].select(range(count))
        return np.stack([np.asarray(image) for image in rows["image"]]).reshape(count, -1) / 255, rows["label"]

    train, labels = pixels("train", 10_000)
    classifier = KNeighborsClassifier(3).fit(train, labels)
    drawn = samples.reshape(64, -1).numpy() / 255
    distance = {
        name: classifier.kneighbors(x, 1)[0].mean() for name, x in (("test", pixels("test", 500)[0]), ("drawn", drawn))
    }
    assert distance["drawn"] < 1.15 * distance["test"], distance
    assert set(classifier.predict(drawn)) == set(range(10))
    assert torch.unique(samples.flatten(1), dim=0).shape[0] == 64
