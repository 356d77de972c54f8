"""A training whose result could not be used ends before its first step, and nothing is lost by it."""

import random

import numpy as np
import pytest
import torch

from hfgen.core.errors import HfgenError
from hfgen.families.registry import get_family
from hfgen.hub.loading import load
from hfgen.trainer.rehearsal import rehearse


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def never_trained(monkeypatch):
    def fail(self):
        raise AssertionError("trained")

    monkeypatch.setattr("hfgen.trainer.loop.Trainer.fit", fail)


def unknown(monkeypatch):
    monkeypatch.setattr("hfgen.families.ddpm.DDPM.claims", lambda *_: False)
    return "its files are taken for a stock's"


def taken_for_another(monkeypatch):
    monkeypatch.setattr("hfgen.families.class_conditional_ddpm.ClassConditionalDDPM.claims", lambda *_: True)
    return "a training of ddpm leaves"


def without_a_card(monkeypatch):
    def fail(*_):
        raise KeyError("summary")

    monkeypatch.setattr("hfgen.families.ddpm.DDPM.card", fail)
    return "'summary'"


def not_loaded(monkeypatch):
    def fail(*_):
        raise HfgenError("no such component")

    monkeypatch.setattr("hfgen.families.ddpm.DDPM.load", fail)
    return "no such component"


def not_saved(monkeypatch):
    def fail(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr("diffusers.UNet2DModel.save_pretrained", fail)
    return "No space left"


@pytest.mark.parametrize("breaking", [unknown, taken_for_another, without_a_card, not_loaded, not_saved])
def test_what_could_not_be_used_in_the_end_is_told_before_the_first_step(
    train, tiny_flags, monkeypatch, never_trained, breaking
):
    message = breaking(monkeypatch)
    with pytest.raises(HfgenError, match=message) as error:
        train()
    assert str(error.value).startswith("what a training of ddpm leaves could not be used (")
    assert "\n" not in str(error.value)
    assert not tiny_flags["output_dir"].exists()


@pytest.mark.slow
def test_an_earlier_training_is_only_replaced_when_the_new_one_will_come_to_an_end(train, tiny_flags, monkeypatch):
    out = train(num_epochs=1)
    before = contents(out)
    without_a_card(monkeypatch)
    with pytest.raises(HfgenError, match="could not be used"):
        train(num_epochs=1, overwrite_output_dir=True)
    assert contents(out) == before


class Task:
    """Of a trained pipeline; it draws from every global generator."""

    def __init__(self, folder):
        self.trained = load(folder).pipeline

    def pipeline(self, module):
        random.random(), np.random.rand(), torch.rand(())
        return self.trained


def test_no_random_state_is_changed(train, tmp_path):
    task = Task(train(num_epochs=1))
    (tmp_path / "new").mkdir()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(7)
    rehearse(get_family("ddpm"), task, task.trained.unet, tmp_path / "new")
    drawn = random.random(), np.random.rand(), float(torch.rand(()))
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(7)
    assert drawn == (random.random(), np.random.rand(), float(torch.rand(())))
