import json
import zlib

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from PIL import Image
from sklearn.datasets import load_digits

from hfgen.models import MLPVAE
from hfgen.pipelines import UnconditionalDiffusionPipeline, VAEPipeline

TOKEN = "hf_SECRETTOKEN"
UNET = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": [8, 8],
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "add_attention": False,
}


@pytest.fixture(autouse=True)
def healthy(hub):
    """Faults end with the test that asked for them."""
    yield
    hub.faults.clear()


@pytest.fixture
def vae_folder(tmp_path):
    """Make the folder of a VAE's pipeline with that name."""

    def make(name):
        torch.manual_seed(zlib.crc32(name.encode()))  # the Hub keeps equal files once, and lets them not be sent again
        VAEPipeline(MLPVAE(sample_size=8, latent_size=3, hidden_sizes=(16,))).save_pretrained(tmp_path / name)
        return tmp_path / name

    return make


@pytest.fixture
def ddpm_folder(tmp_path):
    """Make the folder of a diffusion model of T steps with that name."""

    def make(name, T=25):
        torch.manual_seed(zlib.crc32(name.encode()))
        UnconditionalDiffusionPipeline(UNet2DModel(**UNET), DDPMScheduler(T)).save_pretrained(tmp_path / name)
        return tmp_path / name

    return make


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A user's folder, whose path must get nowhere, with 40 digits as PNG files by class and configs of tiny models."""
    home = tmp_path_factory.mktemp("home") / "SECRETUSER"
    digits = load_digits()
    for i, (image, label) in enumerate(zip(digits.images[:40], digits.target, strict=False)):
        path = home / "my photos" / "train" / str(label) / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.rint(image * (255 / 16)).astype(np.uint8)).save(path)
    vae = {"_class_name": "MLPVAE", "hidden_sizes": [16], "latent_size": 2, "likelihood": "bernoulli"}
    (home / "vae.json").write_text(json.dumps(vae))
    (home / "unet.json").write_text(json.dumps({k: v for k, v in UNET.items() if k != "sample_size"}))
    return home


@pytest.fixture(scope="session")
def flags(home):
    """Words of a training of 4 steps, all of whose places are absolute paths below that folder."""

    def make(**changes):
        kind = "vae" if "vae" in str(changes["output_dir"]) else "unet"
        values = {
            "dataset_name": home / "my photos",
            "cache_dir": home / "cache",
            "model_config_name_or_path": home / f"{kind}.json",
            "train_batch_size": 18,
            "eval_batch_size": 32,
            "num_epochs": 2,
            "learning_rate": 1e-3,
            "lr_warmup_steps": 0,
            "checkpointing_steps": 2,
            "save_images_epochs": 1,
            **({"ddpm_num_steps": 25, "ddpm_num_inference_steps": 25} if kind == "unet" else {}),
            **changes,
        }
        return [f"--{name}" if value is True else f"--{name}={value}" for name, value in values.items()]

    return make


@pytest.fixture(scope="session")
def ddpm_training(hub, ours, flags, home, repository):
    """A diffusion model trained and pushed to a private repository, with a token on the command line."""
    hub.users[TOKEN] = "alice"
    words = flags(output_dir=home / "models" / "tiny-ddpm", push_to_hub=True, hub_model_id="alice/pushed-ddpm")
    words += [f"--hub_token={TOKEN}", "--hub_private_repo"]
    return ours.script(repository / "training" / "train_ddpm.py", *words, token=None)


@pytest.fixture(scope="session")
def vae_training(hub, ours, flags, home, repository):
    """A VAE trained and to be pushed to a repository of its folder's name, with a token in the environment, at a Hub that failed."""
    hub.users[TOKEN] = "alice"
    fault = hub.fail("POST", "/commit/", status=507)
    words = flags(output_dir=home / "models" / "tiny-vae", push_to_hub=True)
    done = ours.script(repository / "training" / "train_vae.py", *words, token=TOKEN)
    hub.faults.remove(fault)
    return done
