import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState, GradientState

from hfgen.cli.parser import parse_training_config
from hfgen.trainer.train import train as train_from

SCRIPT = Path(__file__).parents[2] / "training" / "train_ddpm.py"


@pytest.fixture
def tiny_flags(tmp_path):
    """A run of 12 optimizer steps over 3 epochs on 64 real digits, with a UNet of 10 thousand parameters."""
    unet = {
        "block_out_channels": [8, 8],
        "down_block_types": ["DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D"],
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "add_attention": False,
    }
    (tmp_path / "unet.json").write_text(json.dumps(unet))
    return {
        "dataset_name": "digits",
        "validation_split": "test",
        "max_train_samples": 64,
        "model_config_name_or_path": tmp_path / "unet.json",
        "train_batch_size": 16,
        "eval_batch_size": 64,
        "num_epochs": 3,
        "learning_rate": 1e-3,
        "lr_warmup_steps": 3,
        "checkpointing_steps": 4,
        "logging_steps": 2,
        "save_images_epochs": 0,
        "logger": "none",
        "output_dir": tmp_path / "out",
    }


@pytest.fixture
def words(tiny_flags):
    """Command-line words of the tiny run with some flags changed."""

    def make(**changes):
        return [f"--{k}={v}" for k, v in {**tiny_flags, **changes}.items() if v is not None]

    return make


@pytest.fixture
def train(words):
    """Train in this process; returns the output folder."""

    def run(**changes):
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        return train_from(parse_training_config("ddpm", words(**changes)))

    return run


@pytest.fixture
def script(words):
    """Start training/train_ddpm.py as a process of its own, as a user does."""

    def start(launcher=(sys.executable,), **changes):
        command = [*launcher, str(SCRIPT), *words(**changes)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
        )

    return start


@pytest.fixture
def tiny_vae_flags(tiny_flags, tmp_path):
    """The tiny run with a VAE of 5 thousand parameters at most; bernoulli, as long as no flag changes it."""
    vae = {"_class_name": "MLPVAE", "hidden_sizes": [16], "latent_size": 3, "likelihood": "bernoulli"}
    (tmp_path / "vae.json").write_text(json.dumps(vae))
    return {**tiny_flags, "model_config_name_or_path": tmp_path / "vae.json"}


@pytest.fixture
def train_a_vae(tiny_vae_flags, monkeypatch):
    """Train a VAE in this process; returns the output folder. Without pictures, half of such a run's time, unless asked."""

    def run(*words, curves=False, **changes):
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        flags = [f"--{k}={v}" for k, v in {**tiny_vae_flags, **changes}.items() if v is not None]
        with monkeypatch.context() as patch:
            if not curves:
                patch.setattr("hfgen.trainer.train.save_curves", lambda *_: [])
                patch.setattr("hfgen.families.vae.VAE.figures", lambda *_, **__: [])
            return train_from(parse_training_config("vae", [*words, *flags]))

    return run
