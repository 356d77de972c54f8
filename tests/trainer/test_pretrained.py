"""Diffusion models trained on: from finished trainings, from stock repositories, to more epochs."""

import json
import re
import shlex

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from diffusers import DDPMPipeline, DDPMScheduler, FlowMatchEulerDiscreteScheduler, UNet2DModel
from safetensors.torch import load_file
from stock_repositories import save

from hfgen.cli.parser import parse_training_config
from hfgen.core.errors import HfgenError
from hfgen.families.registry import get_family
from hfgen.hub.loading import load
from hfgen.library import training_config
from hfgen.trainer.checkpoints import checkpoints
from hfgen.trainer.train import train as train_from

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
# the first step of the warm-up has a learning rate of 0: what is saved are the initial weights
NO_STEP = {"num_epochs": None, "max_train_steps": 1, "model_config_name_or_path": None}
LINEAR = {"prediction_type": "epsilon", "ddpm_beta_schedule": "linear", "ddpm_variance_type": "fixed_large"}


def weights(out):
    return load_file(out / WEIGHTS)


def same(one, other):
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def scheduler_of(out):
    return DDPMPipeline.from_pretrained(out).scheduler


@pytest.fixture
def quick(monkeypatch):
    """Without pictures, which take longer than a step."""
    monkeypatch.setattr("hfgen.trainer.train.save_curves", lambda *_: [])
    monkeypatch.setattr("hfgen.families.ddpm.DDPM.figures", lambda *_, **__: [])


@pytest.fixture
def start_from(train, tmp_path, quick):
    """One step, at a learning rate of 0, from a folder."""

    def run(folder, **changes):
        return train(**NO_STEP, pretrained_model_name_or_path=folder, output_dir=tmp_path / "tuned", **changes)

    return run


def resolved(folder, **flags):
    """The flags of a training that starts there."""
    family = get_family("ddpm")
    return family.resolved(training_config("ddpm", **flags), load(folder)).model


# what it starts from


def test_a_finished_training_is_gone_on_from_with_its_process(train, start_from, tmp_path):
    first = train(output_dir=tmp_path / "first", num_epochs=1, ddpm_num_steps=50, **LINEAR)
    out = start_from(first)
    assert same(weights(first), weights(out))
    for key in ("prediction_type", "variance_type", "num_train_timesteps"):
        assert scheduler_of(first).config[key] == scheduler_of(out).config[key]
    assert scheduler_of(out).betas.equal(scheduler_of(first).betas)
    command = json.loads((out / "training.json").read_text())["command"]
    words = shlex.split(command)
    assert "--pretrained_model_name_or_path" in words
    for flag, value in {**LINEAR, "ddpm_num_steps": "50"}.items():
        assert words[words.index(f"--{flag}") + 1] == value


@pytest.mark.parametrize(
    ("betas", "found"),
    [
        ({"beta_schedule": "linear"}, "linear"),
        ({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}, "scaled_linear"),
        ({"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}, "squaredcos_cap_v2"),
        (
            {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
            None,
        ),
    ],
)
def test_a_stock_repository_of_another_size_on_these_images(start_from, tmp_path, betas, found):
    """Its scheduler is diffusers' own with the usual betas."""
    folder = save(tmp_path / "stock", DDPMScheduler(1000, **betas), sample_size=16)
    out = start_from(folder)
    assert same(weights(folder), weights(out))
    assert UNet2DModel.from_pretrained(out, subfolder="unet").config.sample_size == 16
    torch.testing.assert_close(scheduler_of(out).alphas_cumprod.float(), scheduler_of(folder).alphas_cumprod)
    assert scheduler_of(out).config.prediction_type == betas.get("prediction_type", "epsilon")
    if found:
        assert resolved(folder).ddpm_beta_schedule == found


def test_weights_are_those_that_learn(train, start_from, tmp_path):
    folder = save(tmp_path / "stock", DDPMScheduler(1000))
    before = weights(folder)
    out = train(
        **{**NO_STEP, "max_train_steps": 3}, pretrained_model_name_or_path=folder, resolution=16,
        output_dir=tmp_path / "tuned",
    )  # fmt: skip
    after = weights(out)
    assert load(out).image_shape == (1, 16, 16)
    assert not same(before, after)
    # three steps of 1e-3 of Adam, averaged: near where they began, far from new weights
    assert max((before[name] - after[name]).abs().max() for name in before) < 4e-3


def test_flags_that_are_given_come_before_the_models_own(tmp_path):
    folder = save(tmp_path / "stock", DDPMScheduler(1000))
    assert (resolved(folder).prediction_type, resolved(folder).ddpm_num_steps) == ("epsilon", 1000)
    changed = resolved(folder, prediction_type="v_prediction", ddpm_beta_schedule="sigmoid", ddpm_num_steps=200)
    assert (changed.prediction_type, changed.ddpm_beta_schedule, changed.ddpm_num_steps) == (
        "v_prediction",
        "sigmoid",
        200,
    )
    alone = get_family("ddpm").resolved(training_config("ddpm", ddpm_num_steps=9), None).model
    assert (alone.prediction_type, alone.ddpm_beta_schedule, alone.ddpm_num_steps) == (
        "v_prediction",
        "squaredcos_cap_v2",
        9,
    )


# classes


@pytest.fixture
def conditional(train, tmp_path, quick):
    return train(output_dir=tmp_path / "classes", num_epochs=1, class_conditional=True)


@pytest.mark.slow
def test_classes_are_kept_where_there_are_as_many(conditional, start_from):
    out = start_from(conditional, class_conditional=True)
    assert same(weights(conditional), weights(out))


@pytest.mark.slow
def test_other_classes_begin_as_the_one_that_stands_for_none(conditional, start_from, tmp_path):
    """The first half of the classes of the digits, from a folder of pictures."""
    for image, label in zip(*_digits(), strict=True):
        (tmp_path / "five" / f"{label}").mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / "five" / f"{label}" / f"{id(image)}.png")
    out = start_from(
        conditional, class_conditional=True, dataset_name=None, train_data_dir=tmp_path / "five", validation_split=None
    )
    before, after = weights(conditional), weights(out)
    assert after["class_embedding.weight"].shape[0] == 6
    assert (after["class_embedding.weight"] == before["class_embedding.weight"][-1]).all()
    assert same(
        {k: v for k, v in before.items() if "class" not in k}, {k: v for k, v in after.items() if "class" not in k}
    )


def _digits():
    from hfgen.data.digits import embedded_digits

    rows = embedded_digits()["train"].filter(lambda row: row["label"] < 5).select(range(60))
    return list(rows["image"]), list(rows["label"])


def test_a_network_of_no_classes_does_the_same_before_it_has_learnt_them(start_from, tmp_path):
    folder = save(tmp_path / "stock", DDPMScheduler(1000))
    out = start_from(folder, class_conditional=True)
    unet = UNet2DModel.from_pretrained(out, subfolder="unet")
    x, t = torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(10)
    told = unet(x, t, class_labels=torch.arange(10)).sample
    assert told.equal(UNet2DModel.from_pretrained(folder, subfolder="unet")(x, t).sample)


# variational diffusion models


@pytest.mark.slow
def test_a_variational_diffusion_model_is_gone_on_from(tiny_flags, tmp_path, monkeypatch):
    monkeypatch.setattr("hfgen.trainer.train.save_curves", lambda *_: [])
    monkeypatch.setattr("hfgen.families.vdm.VDM.figures", lambda *_, **__: [])
    unet = json.loads((tmp_path / "unet.json").read_text())
    (tmp_path / "vdm.json").write_text(json.dumps({"unet_config": unet, "gamma_features": 16}))

    def run(**changes):
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        words = {**tiny_flags, "num_epochs": None, "max_train_steps": 1, **changes}
        return train_from(parse_training_config("vdm", [f"--{k}={v}" for k, v in words.items() if v is not None]))

    first = run(model_config_name_or_path=tmp_path / "vdm.json", seed=5, gamma_max=4.0)
    tuned = {
        "model_config_name_or_path": None,
        "pretrained_model_name_or_path": first,
        "output_dir": tmp_path / "tuned",
    }
    second = run(**tuned)
    one, other = (load_file(out / "vdm" / "diffusion_pytorch_model.safetensors") for out in (first, second))
    assert same(one, other)
    assert load(second).module.config.gamma_max == 4.0
    with pytest.raises(HfgenError, match="has weights of other shapes than the images and flags ask for"):
        run(**{**tuned, "output_dir": tmp_path / "third"}, gamma="scalar")


# what cannot be


@pytest.mark.parametrize(
    ("scheduler", "flags", "says"),
    [
        (
            FlowMatchEulerDiscreteScheduler(),
            {},
            "has a FlowMatchEulerDiscreteScheduler with ddpm_beta_schedule=None: pass",
        ),
        (
            DDPMScheduler(1000, beta_schedule="laplace"),
            {},
            "with ddpm_beta_schedule='laplace': pass --ddpm_beta",
        ),
        (
            DDPMScheduler(1000, beta_end=0.01),
            {},
            "with betas that are none of hfgen's schedules: pass --ddpm_beta_schedule",
        ),
        (
            DDPMScheduler(1000),
            {"ddpm_variance_type": "learned_range"},
            "has weights of other shapes than the flags ask for",
        ),
    ],
)
def test_a_process_that_flags_do_not_say(start_from, tmp_path, scheduler, flags, says):
    with pytest.raises(HfgenError, match=re.escape(says)) as error:
        start_from(save(tmp_path / "stock", scheduler), **flags)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "tuned").exists()


def test_another_process_can_be_named(start_from, tmp_path):
    folder = save(tmp_path / "stock", FlowMatchEulerDiscreteScheduler())
    out = start_from(folder, ddpm_beta_schedule="linear", prediction_type="epsilon")
    assert same(weights(folder), weights(out))


@pytest.mark.slow
def test_models_that_no_diffusion_starts_from(conditional, start_from, train_a_vae, tmp_path):
    vae = train_a_vae(num_epochs=1, output_dir=tmp_path / "vae")
    with pytest.raises(HfgenError, match=r"is a VAE model: a training goes on from a UNet2DModel with its scheduler"):
        start_from(vae)
    with pytest.raises(HfgenError, match="is told classes: add --class_conditional"):
        start_from(conditional)
    with pytest.raises(HfgenError, match=r"this needs a VAE, such as training/train_vae\.py leaves"):
        train_a_vae(pretrained_model_name_or_path=conditional, output_dir=tmp_path / "other")


# more epochs


@pytest.mark.slow
def test_a_finished_training_is_made_longer(train, capsys):
    """Whatever the learning rate's shape: what is left of it is that of the longer training."""
    out = train(num_epochs=2)
    assert [path.name for path in checkpoints(out)] == ["checkpoint-4", "checkpoint-8"]
    capsys.readouterr()
    train(num_epochs=3, resume_from_checkpoint="latest")
    assert "checkpoint-8, which ended there: now 12 steps" in capsys.readouterr().out
    rows = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    rates = {row["step"]: row["learning_rate"] for row in rows if "learning_rate" in row}
    whole = train(num_epochs=3, output_dir=out.parent / "whole")
    other = [json.loads(line) for line in (whole / "history.jsonl").read_text().splitlines()]
    expected = {row["step"]: row["learning_rate"] for row in other if "learning_rate" in row}
    assert rates[12] == expected[12]
    assert rates[10] == expected[10]
    command = json.loads((out / "training.json").read_text())["command"]
    assert command.endswith("  # made longer after step 8")
    assert shlex.split(command, comments=True) == shlex.split(command.partition("  #")[0])


@pytest.mark.slow
def test_a_training_that_has_not_ended_is_not_made_longer(train):
    train(num_epochs=2)
    with pytest.raises(HfgenError, match="max_steps: 8 there, 12 here"):
        train(num_epochs=3, resume_from_checkpoint="checkpoint-4")
