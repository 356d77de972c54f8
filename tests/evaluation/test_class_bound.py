"""The bound of models that are told classes: with the class withheld, and given it, and said so wherever it is printed."""

import json

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel

from hfgen.cli.main import main
from hfgen.data.digits import embedded_digits
from hfgen.data.evaluation_images import EvaluationImages
from hfgen.data.loading import ImagesInMemory
from hfgen.evaluation.compare import Entry, comparison_rows
from hfgen.families.bound_metrics import own_labels
from hfgen.hub.card import refresh_card
from hfgen.hub.loading import load
from hfgen.models.modeling_hfgen_vdm import VDMModel
from hfgen.pipelines import ClassConditionalDDPMPipeline
from hfgen.pipelines.pipeline_hfgen_vdm import VDMPipeline
from hfgen.results import EvaluationResult

NAMES = [str(digit) for digit in range(10)]
UNET = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (4, 4),
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "attention_head_dim": 4,
}


@pytest.fixture(autouse=True)
def _digits(monkeypatch):
    digits = embedded_digits()
    monkeypatch.setattr("hfgen.data.sources.embedded_digits", lambda: digits)


def ddpm(folder, names=NAMES):
    torch.manual_seed(0)
    unet = UNet2DModel(**UNET, num_class_embeds=len(names) + 1)
    ClassConditionalDDPMPipeline(unet, DDPMScheduler(6, 0.01, 0.5), list(names)).save_pretrained(folder)
    return folder


def vdm(folder, names=NAMES):
    torch.manual_seed(0)
    parts = {k: v for k, v in UNET.items() if k not in ("sample_size", "in_channels", "out_channels")}
    model = VDMModel(sample_size=8, gamma_features=16, num_classes=len(names), unet_config=parts)
    torch.nn.init.normal_(model.unet.conv_out.weight, std=0.1)
    VDMPipeline(model, list(names)).save_pretrained(folder)
    return folder


def measured(folder, out):
    words = ["--dataset_name", "digits", "--evaluations", "200", "--max_images", "20", "--device", "cpu"]
    assert main(["evaluate", str(folder), *words, "--out", str(out)]) == 0
    return EvaluationResult.load(out)


@pytest.mark.parametrize("make", [ddpm, vdm])
def test_the_bound_given_the_class_stands_beside_the_one_without_it(make, tmp_path, capsys):
    folder = make(tmp_path / "model")
    result = measured(folder, folder / "results.json")
    text = capsys.readouterr().out
    bound, given = result.headline("bound", "bits/dim"), result.headline("conditional bound", "bits/dim")
    assert bound.mean != given.mean
    assert bound.name.endswith(", class withheld")
    assert (bound.name in text, given.name in text) == (True, True)
    assert given.name == "bound of images given their class (upper bound on -log p(x | class))"
    assert result.class_withheld
    (row,) = [r for r in comparison_rows([entry(result)]) if r[0] == "bound, bits/dim"]
    assert row[1].endswith("(class withheld)")
    (row,) = [r for r in comparison_rows([entry(result)]) if r[0] == "bound of images given their class, bits/dim"]
    assert row[1] == given.text().removesuffix(" bits/dim")
    card = refresh_card(load(folder)).read_text()
    assert "class withheld" in card
    assert "The bound is that of the network that is not told the class" in card


def entry(result):
    return Entry(name="model", result=result, training=None, pictures={})


def test_images_of_other_classes_have_the_bound_without_the_class_alone(tmp_path):
    folder = ddpm(tmp_path / "model", ["cat", "dog"])
    metrics = measured(folder, tmp_path / "results.json").metrics
    assert "vlb_total" in metrics
    assert not [key for key in metrics if key.startswith("conditional")]


def test_classes_are_matched_by_name():
    images = ImagesInMemory(torch.zeros(3, 1, 2, 2, dtype=torch.uint8))
    data = EvaluationImages(images=images, labels=torch.tensor([0, 1, 0]), class_names=["b", "a"])
    assert own_labels(data, ["a", "b", "c"]).tolist() == [1, 0, 1]
    assert own_labels(data, ["a", "c"]) is None
    assert own_labels(EvaluationImages(images=images, labels=None, class_names=[]), ["a"]) is None


def test_the_card_of_earlier_results_says_it_too(tmp_path, repository):
    """Results of before did not name what was withheld; the model tells it."""
    folder = ddpm(tmp_path / "model")
    old = (repository / "model_cards/ddpm-mnist/results.json").read_text()
    assert "withheld" not in json.dumps(json.loads(old)["metrics"])
    (folder / "results.json").write_text(old)
    assert "The bound is that of the network that is not told the class" in refresh_card(load(folder)).read_text()
