"""Repositories as diffusers' first pipelines are on the Hub: all files in the root."""

import json
import shutil

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler
from huggingface_hub.utils import filter_repo_objects

import hfgen
from hfgen.core.errors import HfgenError
from hfgen.hub.loading import DOWNLOADED
from tests.stock_repositories import change, save, unet

SCHEDULER = DDPMScheduler(25, beta_schedule="squaredcos_cap_v2")


@pytest.fixture
def laid_out(tmp_path):
    return save(tmp_path / "laid_out", SCHEDULER)


@pytest.fixture
def flat(laid_out, tmp_path):
    """The same with its components' files in the root."""
    folder = tmp_path / "flat"
    folder.mkdir()
    shutil.copy(laid_out / "model_index.json", folder)
    for file in [*(laid_out / "unet").iterdir(), *(laid_out / "scheduler").iterdir()]:
        shutil.copy(file, folder)
    return folder


def drawn(pipeline, steps=3):
    return pipeline(2, torch.Generator().manual_seed(0), num_inference_steps=steps, output_type="np").images


def test_it_is_the_model_that_diffusers_loads(flat, laid_out):
    model = hfgen.load(flat)
    assert model.folder == flat
    assert model.digest() == hfgen.load(laid_out).digest()
    stock = DDPMPipeline.from_pretrained(flat)
    assert (drawn(DDPMPipeline(model.pipeline.unet, model.pipeline.scheduler)) == drawn(stock)).all()


def test_a_lone_network_with_a_scheduler_beside_it(flat, laid_out, capsys):
    (flat / "model_index.json").unlink()
    assert hfgen.load(flat).digest() == hfgen.load(laid_out).digest()
    assert not capsys.readouterr().err


def test_a_lone_network_gets_the_process_that_diffusers_has_by_default(tmp_path, capsys):
    unet().save_pretrained(tmp_path / "lone")
    model = hfgen.load(tmp_path / "lone")
    assert model.family.name == "ddpm"
    torch.testing.assert_close(model.pipeline.scheduler.betas, DDPMScheduler().betas)
    assert capsys.readouterr().err.startswith("hfgen: lone has no scheduler")


def test_a_training_goes_on_from_it(flat, tmp_path):
    out = tmp_path / "out"
    hfgen.train("ddpm", dataset_name="digits", pretrained_model_name_or_path=flat, max_train_steps=1, output_dir=out)
    assert hfgen.load(out).pipeline.scheduler.config.num_train_timesteps == 25


def test_what_is_wrong_is_told_of_the_folder_itself(flat):
    change(flat / "config.json", sample_size=7)
    with pytest.raises(HfgenError, match="sample_size is 7") as told:
        hfgen.load(flat)
    assert str(told.value).startswith(str(flat))


@pytest.mark.parametrize(
    "broken", ["", "[]", json.dumps({"_class_name": 3}), json.dumps({"_class_name": "AutoencoderKL"})]
)
def test_a_folder_of_something_else_is_no_pipeline(tmp_path, broken):
    (tmp_path / "config.json").write_text(broken)
    with pytest.raises(HfgenError, match=r"no pipeline that can be loaded, model_index\.json missing"):
        hfgen.load(tmp_path)


def test_weights_in_the_root_are_fetched_and_those_of_other_programs_are_not():
    there = [
        "diffusion_pytorch_model.safetensors",
        "config.json",
        "v1-5-pruned.safetensors",
        "diffusion_pytorch_model.bin",
    ]
    assert list(filter_repo_objects(there, allow_patterns=DOWNLOADED)) == there[:2]
