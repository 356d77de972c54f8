import importlib
import shutil
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel

from hfgen.models import MLPVAE
from hfgen.pipelines import UnconditionalDiffusionPipeline, VAEPipeline
from tests.text_repositories import save_untrained

DEMO = Path(__file__).parents[2] / "demo"
UNET = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": [8, 8],
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
}


@pytest.fixture(scope="session")
def demo():
    """Imports a file of the page, as `python demo/app.py` finds it."""
    sys.path.insert(0, str(DEMO))
    yield importlib.import_module
    sys.path.remove(str(DEMO))


@pytest.fixture(scope="session")
def space(tmp_path_factory):
    """The page's folder with models that nobody has trained beside it: of a plane, of three latents, of steps (with
    results of another one), of words."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("space") / "space"
    shutil.copytree(DEMO, folder, ignore=shutil.ignore_patterns("__pycache__"))
    models = folder / "model_cards"
    for name, size in (("plane", 2), ("room", 3)):
        VAEPipeline(MLPVAE(sample_size=8, latent_size=size, hidden_sizes=(16,))).save_pretrained(models / name)
    UnconditionalDiffusionPipeline(UNet2DModel(**UNET), DDPMScheduler(25)).save_pretrained(models / "steps")
    shutil.copy(DEMO.parent / "model_cards" / "ddpm-mnist" / "results.json", models / "steps")
    save_untrained(models / "words")
    return folder


@pytest.fixture(scope="session")
def models(demo, space):
    shelf = demo("shelf")
    return shelf.load_all(shelf.places(space))
