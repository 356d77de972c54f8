"""Features of images by the shipped classifier of digits and by other classifiers of transformers."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from hfgen.core.errors import HfgenError
from hfgen.data.evaluation_images import load_evaluation_images
from hfgen.data.loading import ImagesInMemory
from hfgen.evaluation.features import BATCH, FeatureNetwork
from hfgen.evaluation.networks import DIGITS_CLASSIFIER, load_feature_network

CPU = torch.device("cpu")
LABELS = {"id2label": {0: "ant", 1: "bee", 2: "cat"}, "label2id": {"ant": 0, "bee": 1, "cat": 2}}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def vit():
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    return ViTForImageClassification(ViTConfig(image_size=16, patch_size=8, num_channels=3, **sizes, **LABELS))


def convnext():
    config = ConvNextConfig(num_channels=3, patch_size=2, hidden_sizes=[4, 6], depths=[1, 1], num_stages=2, **LABELS)
    return ConvNextForImageClassification(config)


def grey_resnet():
    sizes = {"embedding_size": 4, "hidden_sizes": [4, 6], "depths": [1, 1]}
    return ResNetForImageClassification(ResNetConfig(num_channels=1, layer_type="basic", **sizes, **LABELS))


def saved(model, folder: Path, **preprocessor):
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def pictures(count, channels=1, side=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return ImagesInMemory(torch.randint(0, 256, (count, channels, side, side), generator=generator).to(torch.uint8))


@pytest.mark.parametrize(("make", "pooled"), [(vit, 8), (convnext, 6), (grey_resnet, 6)])
def test_features_are_what_the_last_layer_takes(make, pooled, tmp_path):
    network = load_feature_network(saved(make(), tmp_path / "bugs", size={"height": 16, "width": 16}))
    assert (network.name, network.num_features, network.class_names) == ("bugs", pooled, ["ant", "bee", "cat"])
    images = pictures(11, network.channels)
    found = network(images)
    assert found.features.shape == (11, pooled)
    assert len(found) == 11
    with torch.no_grad():
        logits = network.model(network.prepare(images.images)).logits
        torch.testing.assert_close(found.probabilities, logits.softmax(1))
        torch.testing.assert_close(network.last(found.features), logits)
    assert found.first(4).features.shape == (4, pooled)
    assert found.first(4).probabilities.shape == (4, 3)


def test_features_of_a_vision_transformer_are_its_class_token(tmp_path):
    network = load_feature_network(saved(vit(), tmp_path, size={"height": 16, "width": 16}))
    images = pictures(3, 3, 16)
    with torch.no_grad():
        token = network.model.vit(network.prepare(images.images)).last_hidden_state[:, 0]
    torch.testing.assert_close(network(images).features, token)


def test_nothing_of_a_call_stays_on_the_network(tmp_path):
    network = load_feature_network(saved(grey_resnet(), tmp_path, size=16))
    first = network(pictures(5))
    assert torch.equal(network(pictures(5)).features, first.features)
    assert not network.last._forward_pre_hooks
    with pytest.raises(HfgenError):
        network(pictures(5, 3))
    assert not network.last._forward_pre_hooks


def test_the_batching_does_not_matter(monkeypatch):
    network, images = load_feature_network(), pictures(13)
    assert BATCH > 13
    expected = network(images)
    for batch in (1, 5, 13):
        monkeypatch.setattr("hfgen.evaluation.features.BATCH", batch)
        found = network(images)
        # products of another size are summed in another order
        torch.testing.assert_close(found.features, expected.features, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.probabilities, expected.probabilities, rtol=1e-4, atol=1e-5)


def test_pixels_are_scaled_by_the_preprocessor():
    network = FeatureNetwork(vit(), {"size": {"height": 16, "width": 16}, **IMAGENET})
    images = pictures(2, 3, 16).images
    mean, std = (torch.tensor(IMAGENET[key]).view(3, 1, 1) for key in ("image_mean", "image_std"))
    torch.testing.assert_close(network.prepare(images), (images / 255 - mean) / std)
    halves = FeatureNetwork(vit(), {"size": {"height": 16, "width": 16}}).prepare(images)
    torch.testing.assert_close(halves, images / 127.5 - 1)
    plain = FeatureNetwork(vit(), {"size": {"height": 16, "width": 16}, "do_normalize": False, **IMAGENET})
    torch.testing.assert_close(plain.prepare(images), images / 255)


def test_grey_images_are_repeated_where_colours_are_wanted():
    network = FeatureNetwork(vit(), {"size": {"height": 16, "width": 16}})
    grey = pictures(2, 1, 16)
    colours = ImagesInMemory(grey.images.repeat(1, 3, 1, 1))
    assert torch.equal(network.prepare(grey.images), network.prepare(colours.images))
    assert torch.equal(network(grey).features, network(colours).features)


def test_colours_are_refused_where_grey_is_wanted():
    network = FeatureNetwork(grey_resnet(), {"size": 16}, "grey one")
    with pytest.raises(HfgenError, match=r"^images of 3 channels: grey one takes 1; name other --features$"):
        network(pictures(2, 3))


@pytest.mark.parametrize(
    ("preprocessor", "size"),
    [
        ({"size": {"height": 12, "width": 20}}, (12, 20)),
        ({"size": {"shortest_edge": 18}}, (18, 18)),
        ({"size": {"shortest_edge": 18}, "crop_size": {"height": 14, "width": 14}}, (14, 14)),
        ({"size": 10}, (10, 10)),
        ({"size": [10, 12]}, (10, 12)),
        ({}, (16, 16)),
    ],
)
def test_images_are_resized_as_the_preprocessor_says(preprocessor, size):
    network = FeatureNetwork(vit(), preprocessor)
    images = pictures(2, 3, 8).images
    found = network.prepare(images)
    assert found.shape == (2, 3, *size)
    expected = F.interpolate(images / 127.5 - 1, size, mode="bilinear", antialias=True, align_corners=False)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def refused(path, message):
    with pytest.raises(HfgenError, match=message) as caught:
        load_feature_network(path)
    text = str(caught.value)
    assert text.startswith(f"--features {path} cannot be loaded (")
    assert "\n" not in text


class Trap:
    """Tells when it is unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def test_pickles_are_never_loaded(tmp_path):
    saved(vit(), tmp_path, size=16)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"vit": Trap()}, tmp_path / "pytorch_model.bin")
    refused(
        tmp_path,
        "safetensors.*: pass a folder or repository of an image classifier, a DINOv2 or a CLIP with safetensors",
    )


def test_code_of_a_repository_is_never_run(tmp_path, monkeypatch):
    saved(vit(), tmp_path, size=16)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_type"] = "mine"
    config["auto_map"] = {
        "AutoConfig": "mine.MyConfig",
        "AutoModelForImageClassification": "mine.MyModel",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    # a question on the terminal would be answered with yes
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    refused(tmp_path, "pass a folder or repository")
    assert not (tmp_path / "ran").exists()


def test_files_that_are_missing_or_damaged(tmp_path, monkeypatch, offline):
    folder = saved(vit(), tmp_path / "model", size=16)
    (folder / "preprocessor_config.json").write_text("{")
    refused(folder, "pass a folder or repository")
    (folder / "preprocessor_config.json").unlink()
    refused(folder, "preprocessor_config.json")
    saved(vit(), folder, size=16)
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    refused(folder, "pass a folder or repository")
    (folder / "config.json").write_text('{"model_type": "bert"}')
    refused(folder, "pass a folder or repository")
    (folder / "config.json").unlink()
    refused(folder, "pass a folder or repository")
    refused(tmp_path / "nowhere", "pass a folder or repository")
    refused("user/none", "pass a folder or repository")


def test_a_network_without_its_classifier_is_refused(tmp_path):
    """Its last layer would be drawn at random, and the classes with it."""
    saved(vit().vit, tmp_path, size=16)
    refused(tmp_path, "no weights of classifier.bias, classifier.weight")


def test_a_network_is_known_by_its_weights_and_its_preprocessor(tmp_path):
    """Of one name others may lie in a folder when work that was broken off goes on."""
    first = load_feature_network(saved(vit(), tmp_path, size={"height": 16, "width": 16}))
    same = load_feature_network(str(tmp_path))
    assert first.digest() == same.digest()
    with torch.no_grad():
        next(same.model.parameters()).add_(1)
    assert first.digest() != same.digest()
    larger = load_feature_network(saved(first.model, tmp_path / "larger", size={"height": 24, "width": 24}))
    assert first.digest() != larger.digest()


def test_classes_of_a_model_are_known_by_their_names():
    """A model may number them in another order; ten kinds of clothes are no digits."""
    network = load_feature_network()
    backwards = [str(i) for i in reversed(range(10))]
    assert network.numbers_of(backwards).tolist() == list(reversed(range(10)))
    assert network.numbers_of([f"kind {i}" for i in range(10)]) is None
    assert network.numbers_of(backwards[1:]) is None
    assert network.numbers_of(None) is None


def test_the_shipped_classifier_is_small_and_safe():
    files = {path.name: path.stat().st_size for path in DIGITS_CLASSIFIER.iterdir()}
    assert sum(files.values()) <= 500_000
    assert set(files) == {"config.json", "preprocessor_config.json", "model.safetensors"}
    network = load_feature_network()
    assert (network.name, network.channels) == ("digit classifier", 1)
    assert network.class_names == [str(digit) for digit in range(10)]
    assert not network.model.training


@pytest.mark.slow
def test_the_shipped_classifier_knows_its_digits(mnist_path):
    """All 10,000 test images."""
    data = load_evaluation_images(mnist_path, "test", shape=(1, 28, 28), device=CPU)
    found = load_feature_network()(data.images).probabilities.argmax(1)
    assert (found == data.labels).double().mean() >= 0.993
