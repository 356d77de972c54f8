"""What a training leaves: a stock repository with the averaged weights, pictures, a history."""

import json
import shutil

import pytest
import torch
from diffusers import DDPMPipeline, UNet2DModel
from PIL import Image
from safetensors.torch import load_file

from hfgen.core.history import read_history

STRANGER = """
import sys
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained(sys.argv[1])
images = pipeline(batch_size=2, num_inference_steps=5).images
print(type(pipeline).__name__, type(pipeline.scheduler).__name__, [image.size for image in images])
assert "hfgen" not in sys.modules
"""


def test_stranger_loads_it_without_hfgen_and_without_trust(train, stranger):
    done = stranger.run(STRANGER, train(), token=None).check()
    assert done.out.split("\n")[0] == "DDPMPipeline DDPMScheduler [(8, 8), (8, 8)]"


@pytest.mark.slow
def test_scheduler_config_has_the_scaled_betas_and_only_keys_of_ddpm_scheduler(train):
    choices = {"ddpm_beta_schedule": "linear", "ddpm_variance_type": "fixed_large"}
    out = train(ddpm_num_steps=100, ddpm_num_inference_steps=100, **choices)
    config = json.loads((out / "scheduler" / "scheduler_config.json").read_text())
    pipeline = DDPMPipeline.from_pretrained(out)
    expected = set(pipeline.scheduler.config) - {"_use_default_values"}
    assert {k for k in config if not k.startswith("_")} <= {k for k in expected if not k.startswith("_")}
    assert (config["beta_start"], config["beta_end"]) == (1e-3, 0.2)
    assert config["variance_type"] == "fixed_large"


@pytest.mark.slow
def test_saved_weights_are_the_moving_average_after_12_steps(train):
    """The average by its own recurrence, decay 1 - (1 + step - 1)^-0.75, from a checkpoint at every step."""
    out = train(checkpointing_steps=1)
    average = load_file(out / "checkpoint-1" / "model.safetensors")
    for step in range(2, 13):
        decay = min(1 - step**-0.75, 0.9999)
        weights = load_file(out / f"checkpoint-{step}" / "model.safetensors")
        average = {k: decay * average[k].double() + (1 - decay) * weights[k].double() for k in weights}
    saved = UNet2DModel.from_pretrained(out, subfolder="unet").state_dict()
    assert saved.keys() == average.keys()
    # twelve float32 updates of weights of order 1
    assert all(torch.allclose(saved[k].double(), average[k], atol=1e-6) for k in saved)
    assert not all(torch.equal(saved[k], weights[k]) for k in saved)


@pytest.mark.slow
def test_without_ema_the_last_weights_are_saved(train):
    out = train(use_ema=False)
    saved = UNet2DModel.from_pretrained(out, subfolder="unet").state_dict()
    weights = load_file(out / "checkpoint-12" / "model.safetensors")
    assert all(torch.equal(saved[k], weights[k]) for k in weights)


def test_history_curves_and_sample_grid(train):
    out = train(save_images_epochs=2, ddpm_num_inference_steps=2)
    history = read_history(out / "history.jsonl")
    assert [row["epoch"] for row in history if "validation_loss" in row] == [1, 2, 3]
    assert all(row["images_per_second"] > 0 for row in history if "train_loss" in row)
    assert sorted(p.name for p in (out / "samples").iterdir()) == ["step-0000008.png", "step-0000012.png"]
    for path in [out / "loss.png", *(out / "samples").iterdir()]:
        assert min(Image.open(path).size) >= 64


@pytest.mark.slow
@pytest.mark.slow
def test_grids_of_a_longer_training_before_do_not_pass_for_its_own(train):
    """As where somebody removed its checkpoints and lets the next one start fresh."""
    flags = {"save_images_epochs": 1, "ddpm_num_inference_steps": 2}
    out = train(**flags)
    for path in out.glob("checkpoint-*"):
        shutil.rmtree(path)
    last = sorted((out / "samples").iterdir())[-1].read_bytes()
    train(**flags, num_epochs=1, seed=7, resume_from_checkpoint="latest")
    assert [path.name for path in (out / "samples").iterdir()] == ["step-0000004.png"]
    assert (out / "samples.png").read_bytes() == (out / "samples" / "step-0000004.png").read_bytes() != last


def test_tensorboard_holds_the_readings(train):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = train(logger="tensorboard")
    events = EventAccumulator(str(out / "logs" / "hfgen"))
    events.Reload()
    assert {"train_loss", "validation_loss", "learning_rate", "images_per_second"} <= set(events.Tags()["scalars"])


@pytest.mark.slow
def test_validation_loss_falls_on_real_digits(train):
    """The tiny UNet predicts no noise at first (loss 1); after 120 steps it must do clearly better on images it never saw."""
    out = train(
        prediction_type="epsilon",
        ddpm_beta_schedule="linear",
        num_epochs=None,
        max_train_steps=120,
        learning_rate=5e-3,
        ema_max_decay=0.9,
        max_train_samples=1000,
    )
    losses = [row["validation_loss"] for row in read_history(out / "history.jsonl") if "validation_loss" in row]
    assert losses[-1] < 0.5 * losses[0] or losses[-1] < 0.3


@pytest.mark.slow
@pytest.mark.parametrize("flags", [{"mixed_precision": "bf16"}, {"model_config_name_or_path": "digits"}])
def test_trains_in_bf16_and_from_a_preset(train, flags):
    out = train(**flags, num_epochs=1)
    unet = UNet2DModel.from_pretrained(out, subfolder="unet")
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in unet.parameters())
