"""The noise predictor: presets, Fourier features of time, configs from files, and its errors."""

import json

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from diffusers.models.attention_processor import Attention
from hub_server import HubServer
from huggingface_hub import HfApi, constants

from hfgen.core.errors import HfgenError
from hfgen.models import UNET_PRESETS, build_unet, load_unet_config
from hfgen.models.noise_predictor import fourier_table

SHAPES = {
    "digits": (1, 8),
    "mnist": (1, 28),
    "mnist-fourier": (1, 28),
    "mnist-fast": (1, 28),
    "cifar10": (3, 32),
    **{f"grey-{side}": (1, side) for side in (32, 64, 128)},
    **{f"rgb-{side}": (3, side) for side in (28, 32, 64, 128)},
}
TINY = {
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 8,
}


def build(preset, num_train_timesteps=1000):
    channels, resolution = SHAPES[preset]
    torch.manual_seed(0)
    return build_unet(load_unet_config(preset), resolution, channels, num_train_timesteps).eval()


def first_and_last_step(preset, num_train_timesteps=1000):
    channels, resolution = SHAPES[preset]
    x_t = torch.randn(2, channels, resolution, resolution, generator=torch.Generator().manual_seed(0))
    return x_t, torch.tensor([0, num_train_timesteps - 1])


def test_a_repository_of_a_pipeline_or_of_a_model(monkeypatch, tmp_path):
    with HubServer() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        api = HfApi(hub.url, "hf_alice")
        (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel", "block_out_channels": [8, 16]}))
        for repo, place in (("alice/pipeline", "unet/config.json"), ("alice/model", "config.json")):
            api.create_repo(repo)
            api.upload_file(path_or_fileobj=tmp_path / "config.json", path_in_repo=place, repo_id=repo)
            assert load_unet_config(repo)["block_out_channels"] == [8, 16]
        with pytest.raises(HfgenError, match="'alice/none' is no preset"):
            load_unet_config("alice/none")


def test_every_preset_is_tested():
    assert set(SHAPES) == set(UNET_PRESETS)


@pytest.mark.slow
@pytest.mark.parametrize("preset", SHAPES)
@torch.no_grad()
def test_presets_predict_at_the_first_and_the_last_step(preset):
    x_t, timesteps = first_and_last_step(preset)
    unet = build(preset)
    predicted = unet(x_t, timesteps).sample
    assert predicted.shape == x_t.shape
    assert predicted.isfinite().all()
    # the time reaches the output; a second pass with the same times gives the same numbers up to rounding
    assert not torch.allclose(unet(x_t, timesteps.flip(0)).sample, predicted, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(unet(x_t, timesteps).sample, predicted)


@pytest.mark.parametrize(
    ("preset", "attends_at"),
    [
        ("digits", {4}),
        ("mnist", {7}),
        ("mnist-fourier", {7}),
        ("mnist-fast", set()),
        ("cifar10", {16}),
        ("rgb-28", {7}),
        ("rgb-32", {8}),
        ("grey-64", {8}),
        ("rgb-128", {8}),
    ],
)
@torch.no_grad()
def test_attention_at_the_resolutions_of_the_preset(preset, attends_at):
    unet, seen = build(preset), set()
    for block in (*unet.down_blocks, *unet.up_blocks):
        for module in block.modules():
            if isinstance(module, Attention):
                module.register_forward_pre_hook(lambda _, inputs: seen.add(inputs[0].shape[-1]))
    x_t, timesteps = first_and_last_step(preset)
    unet(x_t[:1], timesteps[:1])
    assert seen == attends_at


def test_cifar10_has_the_size_of_ho_et_al():
    unet = build("cifar10")
    assert round(sum(p.numel() for p in unet.parameters()) / 1e6, 1) == 35.7


def test_mnist_fits_three_megabytes():
    assert sum(p.numel() * p.element_size() for p in build("mnist").parameters()) < 3_000_000


def test_fourier_table_is_its_formula():
    torch.manual_seed(7)
    table = fourier_table(50, 12, scale=0.5)
    torch.manual_seed(7)
    w = 0.5 * torch.randn(6).double().numpy()
    angles = 2 * np.pi * np.log(np.arange(1, 51))[:, None] * w
    expected = np.sqrt(2) * np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    # angles up to 2 pi * 4 * 1.5 = 40 in float32: an absolute error of some 40 * 6e-8
    np.testing.assert_allclose(table, expected, atol=2e-5)


def test_fourier_features_lie_on_circles_and_turn_with_log_t():
    sin, cos = build("mnist-fourier", 100).time_proj.weight.double().chunk(2, dim=1)
    features = torch.complex(cos, sin) / np.sqrt(2)
    # float32 sines and cosines
    torch.testing.assert_close(features.abs(), torch.ones_like(sin), rtol=0, atol=1e-6)
    # log 6 = log 2 + log 3: the angles of t = 2 and t = 3 (timesteps 1 and 2) add up to that of t = 6; errors as above
    torch.testing.assert_close(features[1] * features[2], features[5], rtol=0, atol=1e-4)
    torch.testing.assert_close(features[0], torch.ones_like(features[0]), rtol=0, atol=1e-6)  # log 1 = 0
    assert features[1].angle().std() > 0.5  # the frequencies are spread


def test_fourier_table_is_not_trained():
    unet = build("mnist-fourier", 10).train()
    before = unet.time_proj.weight.clone()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=0.1, weight_decay=0.1)
    x_t, timesteps = first_and_last_step("mnist-fourier", 10)
    unet(x_t, timesteps).sample.square().mean().backward()
    optimizer.step()
    assert unet.time_proj.weight.equal(before)
    assert not unet.time_embedding.linear_1.weight.grad.eq(0).all()


@torch.no_grad()
def test_fourier_model_loads_in_stock_diffusers(tmp_path):
    unet = build("mnist-fourier", 100)
    unet.save_pretrained(tmp_path)
    stock = UNet2DModel.from_pretrained(tmp_path).eval()
    assert type(stock) is UNet2DModel
    x_t, timesteps = first_and_last_step("mnist-fourier", 100)
    assert stock(x_t, timesteps).sample.equal(unet(x_t, timesteps).sample)


def test_presets_are_not_changed_by_building():
    before = json.dumps(UNET_PRESETS)
    build("mnist-fourier", 10)
    assert json.dumps(UNET_PRESETS) == before


def test_config_from_a_json_file(tmp_path):
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(TINY))
    unet = build_unet(load_unet_config(str(path)), 8, 3, 1000)
    assert (unet.config.sample_size, unet.config.in_channels, unet.config.out_channels) == (8, 3, 3)
    assert list(unet.config.block_out_channels) == [8, 16]


@pytest.mark.parametrize("subfolder", ["", "unet"])
def test_config_from_the_folder_of_a_model_or_a_pipeline(tmp_path, subfolder):
    saved = build_unet(TINY, 8, 1, 1000)
    saved.save_pretrained(tmp_path / subfolder)
    unet = build_unet(load_unet_config(str(tmp_path)), 8, 1, 1000)
    shapes = [{name: p.shape for name, p in model.named_parameters()} for model in (saved, unet)]
    assert shapes[0] == shapes[1]


def test_resolution_that_cannot_be_halved():
    with pytest.raises(HfgenError, match=r"resolution=30 cannot be halved 2 times .* --resolution 32") as error:
        build_unet(load_unet_config("mnist"), 30, 1, 1000)
    assert "multiple of 4" in str(error.value)
    build_unet(load_unet_config("mnist"), 32, 1, 1000)  # what the message recommends


def test_unknown_name(offline):
    with pytest.raises(
        HfgenError, match=r"'no-such-model' is no preset \(digits, mnist, cifar10, mnist-fourier, rgb-28"
    ):
        load_unet_config("no-such-model")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "holds a list: pass an object"),
        ("{", "Expecting property name .*; pass a JSON file of the model's arguments"),
    ],
)
def test_file_that_holds_no_config(tmp_path, text, message):
    path = tmp_path / "model.json"
    path.write_text(text)
    with pytest.raises(HfgenError, match=rf"model config {path}.*{message}"):
        load_unet_config(str(path))


def test_missing_file():
    with pytest.raises(HfgenError, match=r"model config missing\.json: .*No such file"):
        load_unet_config("missing.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks": 2, "widths": 3}, "model config has blocks, widths: UNet2DModel takes no such argument"),
        ({"norm_num_groups": 3}, "cannot be built .*num_channels"),
        ({"down_block_types": ["NoSuchBlock", "DownBlock2D"]}, "cannot be built .*NoSuchBlock"),
        ({"layers_per_block": "two"}, "cannot be built"),
        ({"block_out_channels": 32}, "cannot be built"),
        ({"attention_head_dim": 0}, "cannot be built"),
        ({"time_embedding_type": "sinusoidal"}, "cannot be built"),
    ],
)
def test_config_that_does_not_build(change, message):
    with pytest.raises(HfgenError, match=message):
        build_unet({**TINY, **change}, 8, 1, 1000)
