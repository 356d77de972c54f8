"""Feature networks by name: DINOv2 and CLIP from folders, the FID's weights from a server, and what is said where there is none."""

import hashlib
import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
)

from hfgen.core.errors import HfgenError
from hfgen.data.loading import ImagesInMemory
from hfgen.evaluation.features import Features
from hfgen.evaluation.inception import InceptionNetwork, fid_weights
from hfgen.evaluation.networks import ON_THE_HUB, load_feature_network
from hfgen.evaluation.quality import frechet_distance
from hfgen.evaluation.samples import quality_metrics

SIZES = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
PREPROCESSOR = {
    "crop_size": {"height": 16, "width": 16},
    "size": {"shortest_edge": 18},
    "resample": 3,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def saved(tmp_path):
    def save(model):
        model.save_pretrained(tmp_path / "network")
        (tmp_path / "network/preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
        return tmp_path / "network"

    return save


def pictures(count, channels=3, side=16):
    pixels = torch.randint(0, 256, (count, channels, side, side), generator=torch.Generator().manual_seed(0))
    return ImagesInMemory(pixels.to(torch.uint8))


def test_the_features_of_a_dinov2_are_its_class_token(saved):
    model = Dinov2Model(Dinov2Config(**SIZES)).eval()
    network = load_feature_network(saved(model))
    images = pictures(5)
    found = network(images)
    mean, std = (torch.tensor(PREPROCESSOR[key]).view(3, 1, 1) for key in ("image_mean", "image_std"))
    with torch.no_grad():
        pooled = model((images.images / 255 - mean) / std).pooler_output
    torch.testing.assert_close(found.features, pooled)
    assert (network.num_features, network.class_names, found.probabilities) == (12, [], None)
    assert found.first(2).features.shape == (2, 12)


def test_the_features_of_a_clip_are_its_image_embeddings(saved):
    config = {**SIZES, "intermediate_size": 16}
    whole = CLIPModel(
        CLIPConfig(vision_config=config, text_config={"vocab_size": 50, "hidden_size": 8}, projection_dim=6)
    )
    alone = CLIPVisionModelWithProjection(CLIPVisionConfig(**config, projection_dim=7))
    for model, length in ((whole, 6), (alone, 7)):
        model.eval()
        network = load_feature_network(saved(model))
        images = pictures(4)
        with torch.no_grad():
            pixels = network.prepare(images.images)
            embedded = model.visual_projection(model.vision_model(pixels).pooler_output)
        torch.testing.assert_close(network(images).features, embedded)
        assert network.num_features == length


def test_a_classifier_on_a_dinov2_is_a_classifier(saved):
    model = Dinov2ForImageClassification(Dinov2Config(**SIZES, num_labels=3))
    network = load_feature_network(saved(model))
    assert (network.num_features, len(network.class_names)) == (24, 3)
    assert network(pictures(2)).probabilities.shape == (2, 3)


def test_images_are_resized_as_bicubic_where_the_preprocessor_says_so(saved):
    network = load_feature_network(saved(Dinov2Model(Dinov2Config(**SIZES))))
    pixels = pictures(2, side=8).images
    expected = torch.nn.functional.interpolate(pixels / 255, (16, 16), mode="bicubic", antialias=True).clamp(0, 1)
    torch.testing.assert_close(network.prepare(pixels) * network.std + network.mean, expected)


@pytest.mark.parametrize("name", sorted(ON_THE_HUB))
def test_without_the_hub_what_can_be_had_is_named(name, offline):
    with pytest.raises(HfgenError, match=rf"^--features {name} cannot be loaded \(") as told:
        load_feature_network(name)
    text = str(told.value)
    assert "without a network: digits, or a folder that `hfgen train-features` makes" in text
    assert "\n" not in text


def test_the_name_of_the_shipped_classifier():
    network = load_feature_network("digits")
    assert (network.name, network.num_features) == ("digit classifier", 64)


def test_inception_without_its_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch_fidelity", None)
    with pytest.raises(
        HfgenError, match=r"^--features inception needs torch-fidelity .*: pip install 'hfgen\[fid\]'; dinov2"
    ) as told:
        load_feature_network("inception")
    assert "\n" not in str(told.value)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    """A folder, and the address under which it is served."""
    folder = tmp_path / "served"
    folder.mkdir()
    serving = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{serving.server_port}"
    serving.shutdown()
    serving.server_close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub/checkpoints"


def test_the_weights_of_the_fid_are_downloaded_once(server, cache):
    folder, address = server
    torch.save({"weight": torch.arange(3.0)}, folder / "weights.pth")
    sha256 = hashlib.sha256((folder / "weights.pth").read_bytes()).hexdigest()[:8]
    path = fid_weights(f"{address}/weights.pth", sha256)
    assert path == cache / "weights.pth"
    assert torch.load(path, weights_only=True)["weight"].tolist() == [0, 1, 2]
    (folder / "weights.pth").unlink()
    assert fid_weights(f"{address}/weights.pth", sha256) == path


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def test_weights_that_cannot_be_had_are_told_in_a_line(server, cache):
    folder, address = server
    torch.save({"weight": Trap()}, folder / "trap.pth")
    torch.save({}, folder / "other.pth")
    trap = hashlib.sha256((folder / "trap.pth").read_bytes()).hexdigest()[:8]
    cases = {
        (f"{address}/missing.pth", "00000000"): "404",
        (f"{address}/other.pth", "00000000"): "invalid hash value",
        (f"{address}/trap.pth", trap): "Weights only load failed",
        ("http://127.0.0.1:9/none.pth", "00000000"): "refused",
    }
    for (url, sha256), reason in cases.items():
        with pytest.raises(HfgenError) as told:
            fid_weights(url, sha256)
        text = str(told.value)
        assert text.startswith(f"--features inception: its weights cannot be had from {url} (")
        assert reason in text
        assert "`hfgen train-features` makes a folder to name here" in text
        assert "\n" not in text
    assert [path.name for path in cache.iterdir()] == ["trap.pth"]


def test_inception_sees_8_bit_colours():
    """In place of the network a mean over each channel: what it is given are bytes, grey ones in three channels."""

    class Means(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, x):
            assert x.dtype == torch.uint8
            return (x.float().mean((2, 3)) * self.scale,)

    network = InceptionNetwork(Means(), "cpu")
    grey = pictures(4, channels=1)
    found = network(grey)
    torch.testing.assert_close(found.features, grey.images.float().mean((2, 3)).expand(-1, 3))
    assert found.probabilities is None


def test_the_fid_is_the_frechet_distance_of_its_network():
    """Of known features, whose distance is that of their means and deviations along each axis; nothing else is called so."""

    def gaussian(seed, mean, deviation):
        x = torch.randn(200, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        x = x - x.mean(0)
        white = x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T
        return Features(white * torch.tensor(deviation) + torch.tensor(mean))

    a, b = gaussian(0, [0.0, 1.0, 2.0], [1.0, 2.0, 0.5]), gaussian(1, [0.5, 1.0, 1.0], [1.0, 1.0, 1.5])
    metrics = quality_metrics(a, b, b, "network", is_fid=True)
    # 0.25 + 0 + 1 of the means, 0 + 1 + 1 of the deviations
    assert metrics["frechet"].mean == pytest.approx(3.25, rel=1e-9)
    assert metrics["frechet"].mean == frechet_distance(a, b)
    assert [metrics[key].name for key in ("frechet", "kid", "frechet_floor")] == [
        "FID",
        "KID",
        "FID, floor: training images",
    ]
    others = quality_metrics(a, b, b, "network")
    assert "not FID" in others["frechet"].name
    assert "not KID" in others["kid"].name
    assert not {"class_shift", "confidence"} & set(metrics)
