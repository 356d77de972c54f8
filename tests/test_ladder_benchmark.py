"""The picture of the ladder from a VAE to a diffusion model, of results that are made up."""

import math

import pytest
from PIL import Image

from hfgen.results import EvaluationResult, LikelihoodResult, Metric


@pytest.fixture
def ladder(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import ladder

    return ladder


def save(folder, name, facts, bound, weighted=None, quantity="log-likelihood of 8-bit pixels", dataset="ylecun/mnist"):
    metrics = {"a": Metric(name="a bound", mean=bound, unit="bits/dim", role="bound")}
    if weighted is not None:
        metrics["b"] = Metric(name="another", mean=weighted, unit="bits/dim", role="importance-weighted bound")
    result = EvaluationResult(
        family=name,
        kind=name,
        parameters=1,
        dataset=dataset,
        dataset_fingerprint="",
        split="test",
        images=10,
        seed=0,
        run_metadata={},
        likelihood=LikelihoodResult(quantity=quantity, likelihood="", metrics=metrics, seconds=1.0, facts=facts),
    )
    (folder / name).mkdir()
    result.save(folder / name / "results.json")
    return folder / name / "results.json"


def test_models_stand_on_their_rung(ladder, tmp_path, capsys):
    paths = [
        save(tmp_path, "vdm", {"T": None}, 0.4),
        save(tmp_path, "ddpm", {"T": 1000}, 1.7),
        save(tmp_path, "chain", {"iw_samples": 10, "latents": [8, 4, 2]}, 1.3, 1.2),
        save(tmp_path, "vae", {"iw_samples": 10}, 1.5, 1.4),
        save(tmp_path, "binary", {"iw_samples": 10}, 0.2, quantity="log-likelihood of binarised pixels"),
        save(tmp_path, "other", {"T": 10}, 3.0, dataset="cifar10"),
        save(tmp_path, "flow", {"iw_samples": 16, "coupling": "affine"}, 1.03, 1.02),
    ]
    rungs = [ladder.rung(path, "mnist", "test") for path in paths]
    assert [rung and rung.layers for rung in rungs] == [math.inf, 1000, 3, 1, None, None, None]
    assert rungs[2] == ladder.Rung("chain", 3, 1.3, 1.2)
    capsys.readouterr()
    assert ladder.main([*map(str, paths), "--out", str(tmp_path / "ladder.png")]) == 0
    told = capsys.readouterr()
    assert [line.split()[-1] for line in told.out.splitlines()] == ["vae", "chain", "ddpm", "vdm"]
    assert told.err.count("left out") == 3
    assert min(Image.open(tmp_path / "ladder.png").size) > 300


def test_nothing_to_draw(ladder, tmp_path):
    path = save(tmp_path, "other", {"T": 10}, 3.0, dataset="cifar10")
    assert ladder.main([str(path), "--out", str(tmp_path / "ladder.png")]) == 1
    assert not (tmp_path / "ladder.png").exists()
