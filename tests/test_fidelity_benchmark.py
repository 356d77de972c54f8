"""The picture of fidelity, diversity and likelihood, of results that are made up."""

import pytest
from PIL import Image

from hfgen.results import EvaluationResult, LikelihoodResult, Metric, SampleResult


@pytest.fixture
def benchmark(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import fidelity_diversity

    return fidelity_diversity


def save(path, kind, *, quality=None, bound=None, dataset="ylecun/mnist", told=None):
    metrics = {} if told is None else {told: Metric(name=told, mean=1.0)}
    for suffix, values in (("", quality), ("_floor", (0.9, 0.8, 0.1))):
        names = zip(("precision", "recall", "frechet"), values or (), strict=False)
        metrics |= {f"{name}{suffix}": Metric(name=name, mean=value) for name, value in names}
    samples = SampleResult(
        count=9,
        reference=9,
        how="",
        features="",
        classes={},
        metrics=metrics,
        seconds_sampling=1.0,
        seconds_measuring=1.0,
    )
    bits = {"a": Metric(name="a", mean=bound or 0.0, unit="bits/dim", role="bound")}
    likelihood = LikelihoodResult(quantity="log-likelihood of 8-bit pixels", likelihood="", metrics=bits, seconds=1.0)
    path.parent.mkdir(exist_ok=True)
    EvaluationResult(
        family="x", kind=kind, parameters=1, dataset=dataset, dataset_fingerprint="", split="test", images=9, seed=0,
        run_metadata={}, likelihood=likelihood if bound else None, samples=samples if quality else None,
    ).save(path)  # fmt: skip
    return path


def test_files_of_a_folder_are_one_point(benchmark, tmp_path, capsys):
    places = [
        save(tmp_path / "flow" / "results.json", "flow", bound=1.2),
        save(tmp_path / "flow" / "samples.json", "flow", quality=(0.6, 0.5, 3.0)),
        save(tmp_path / "gan" / "results.json", "GAN", quality=(0.9, 0.2, 1.0)),
        save(tmp_path / "vae" / "results.json", "VAE", bound=2.0),
        save(tmp_path / "other" / "results.json", "VAE", quality=(0.9, 0.9, 1.0), dataset="digits"),
        save(tmp_path / "clips" / "results.json", "x", quality=(0.9, 0.9, 1.0), dataset="moving:ylecun/mnist"),
    ]
    places.append(save(tmp_path / "control" / "results.json", "x", quality=(1.0, 1.0, 0.0), told="control_f1"))
    found = {p.name: p for p in benchmark.points(places, "mnist", "test")}
    assert set(found) == {"flow", "gan"}
    assert (found["flow"].precision, found["flow"].recall, found["flow"].frechet) == (0.6, 0.5, 3.0)
    assert (found["flow"].bits_per_dim, found["gan"].bits_per_dim) == (1.2, None)
    assert found["gan"].floor == (0.9, 0.8, 0.1)
    told = capsys.readouterr().err
    assert "not of mnist/test" in told
    assert "vae: no measured samples" in told
    assert "control: no measured samples of its own choice" in told
    assert benchmark.main([*map(str, places), "--out", str(tmp_path / "p.png")]) == 0
    assert Image.open(tmp_path / "p.png").size[0] > 1000
    assert benchmark.main([str(places[3]), "--out", str(tmp_path / "q.png")]) == 1
