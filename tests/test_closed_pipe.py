"""A command whose reader has gone, as that of `hfgen evaluate ... | head -1`: nothing is lost, and nothing more is said."""

import os
import subprocess
import sys

import pytest
import torch

from hfgen.models import MLPVAE
from hfgen.pipelines import VAEPipeline

BROKEN_PIPE = 128 + 13
DATA = ["--dataset_name", "digits", "--max_images", "10"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for name in ("a", "b"):
        torch.manual_seed(0)
        vae = MLPVAE(sample_size=8, latent_size=2, hidden_sizes=(8,), likelihood="discretized_logistic")
        VAEPipeline(vae).save_pretrained(root / name)
    return root


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "written"),
    [
        (["evaluate", "a", *DATA, "--iw_samples", "2", "--out", "r.json"], ["r.json"]),
        (
            ["compare", "a", "b", *DATA, "--iw_samples", "2", "--samples", "70", "--repeat", "1", "--out", "c.html"],
            ["c.html", "c.md"],
        ),
        (["figures", "a", *DATA, "--out", "pictures"], ["pictures/reconstructions.png"]),
        (["sample", "a", "--num_images", "3", "--out", "grid.png"], ["grid.png"]),
        (["sample", "a", "--num_images", "3", "--out", "folder"], ["folder/00002.png"]),
    ],
    ids=["evaluate", "compare", "figures", "sample", "sample into a folder"],
)
def test_what_was_made_is_on_disk(models, tmp_path, words, written):
    """Unbuffered, as the first line is then refused at once, not all of them at the end."""
    words = [str(models / word) if word in ("a", "b") else word for word in words]
    read, write = os.pipe()
    os.close(read)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "hfgen.cli", *words, "--device", "cpu"]
    done = subprocess.run(command, cwd=tmp_path, stdout=write, stderr=subprocess.PIPE, text=True, env=environment)
    os.close(write)
    assert done.returncode == BROKEN_PIPE, done.stderr
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
    assert "error" not in done.stderr
    assert all((tmp_path / name).is_file() for name in written)
    assert not list(tmp_path.glob(".*unfinished"))
