"""The benchmark of latents against pixels runs, small."""

import json
import subprocess
import sys

import pytest
from latent_repositories import save_autoencoder


@pytest.mark.slow
def test_both_kinds_are_measured_in_one_run(repository, tmp_path):
    vae = save_autoencoder(tmp_path / "vae")
    words = ["--autoencoder", vae, "--minutes", "0.01", "--readings", "1", "--out", tmp_path / "latents.json"]
    subprocess.run([sys.executable, repository / "benchmarks" / "latents.py", *map(str, words)], check=True)
    kinds = json.loads((tmp_path / "latents.json").read_text())["kinds"]
    assert [kinds[name]["rows"] for name in ("pixels", "latents")] == [[1, 8, 8], [2, 4, 4]]
    for found in kinds.values():
        assert found["images_per_cpu_second"] > 0
        assert found["peak_mib"] > 50
        assert {"cpu_minutes", "steps", "kid", "frechet"} == set(found["readings"][0])
