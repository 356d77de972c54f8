"""Results and trainings as objects: their files come back as they were, old ones are read, damaged ones are told in a line."""

import copy
import json
import math

import pytest

from hfgen.core.errors import HfgenError
from hfgen.results import BoundTerms, EvaluationResult, LikelihoodResult, Metric, SampleResult, TrainingRecord

BITS = Metric(name="bound", mean=1.5, standard_error=0.1, unit="bits/dim", role="bound")


def result(**changes):
    likelihood = LikelihoodResult(
        quantity="log-likelihood of 8-bit pixels",
        likelihood="discretised Gaussian at t = 1",
        how="123 network evaluations, sampled t",
        facts={"T": 3},
        metrics={"vlb_total_bits_per_dim": BITS},
        terms=BoundTerms(mean=(0.5, None, 1.0), standard_error=(0.1, None, None), draws=(60, 0, 63)),
        seconds=2.5,
    )
    samples = SampleResult(
        count=70,
        reference=60,
        how="ddpm, 3 steps",
        features="digit classifier",
        classes={"names": ["0"], "samples": [1.0], "reference": [1.0]},
        metrics={"frechet": Metric(name="Frechet distance", mean=0.25)},
        seconds_sampling=1.0,
        seconds_measuring=0.5,
    )
    values = {
        "family": "ddpm",
        "kind": "diffusion",
        "parameters": 10,
        "dataset": "digits",
        "dataset_fingerprint": "abc",
        "split": "test",
        "images": 60,
        "seed": 0,
        "run_metadata": {"device": "abacus", "hfgen": "0.1.0"},
        "likelihood": likelihood,
        "samples": samples,
    }
    return EvaluationResult(**{**values, **changes})


def test_a_file_comes_back_as_it_was(tmp_path):
    path = tmp_path / "results.json"
    result().save(path)
    assert EvaluationResult.load(path) == result()
    assert json.loads(path.read_text())["schema_version"] == 2
    alone = result(samples=None)
    alone.save(str(path))
    assert EvaluationResult.load(str(path)) == alone


@pytest.mark.parametrize("name", ["ddpm-mnist", "vae-mnist-8bit", "vae-mnist-grey", "vae-mnist-2d"])
def test_files_of_version_1_are_read(repository, name):
    path = repository / "model_cards" / name / "results.json"
    old = json.loads(path.read_text())
    found = EvaluationResult.load(path)
    assert {key: metric.mean for key, metric in found.metrics.items()} == {
        key: metric["mean"] for key, metric in old["metrics"].items()
    }
    assert found.family == {"VAE": "vae", "diffusion": "ddpm"}[old["kind"]]
    assert found.run_metadata == old["environment"]
    for key in ("T", "iw_samples", "evaluations"):
        assert found.likelihood.facts.get(key) == old.get(key)
    key = "vlb_total" if old["kind"] == "diffusion" else "negative_elbo"
    assert found.headline("bound", "nats/image").mean == old["metrics"][key]["mean"]
    assert EvaluationResult.from_json(json.loads(json.dumps(found.to_json()))) == found
    if "terms" in old:
        assert list(found.likelihood.terms.mean) == old["terms"]["mean"]
        assert "network evaluations, sampled t" in found.table()


def test_a_training_of_version_1_is_read(repository, tmp_path):
    path = repository / "model_cards/vae-mnist-8bit/training.json"
    record = TrainingRecord.load(path)
    old = json.loads(path.read_text())
    assert (record.steps, record.image_shape, record.family) == (old["steps"], tuple(old["image_shape"]), None)
    assert record.run_metadata == old["environment"]
    record.save(tmp_path / "training.json")
    assert TrainingRecord.load(tmp_path / "training.json") == record


def damaged(change):
    value = copy.deepcopy(result().to_json())
    change(value)
    return value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], r"^results is '\[\]'"),
        (None, r"^results is 'None'"),
        ({}, r"^results: metrics is 'None'"),
        ({"schema_version": 3}, "schema_version 3: this hfgen reads up to 2; update hfgen"),
        (damaged(lambda v: v.pop("parameters")), "^results lacks 'parameters'"),
        (damaged(lambda v: v.update(dataset=3)), "^results: dataset is '3'"),
        (damaged(lambda v: v.update(images="many")), "^results: images is 'many'"),
        (damaged(lambda v: v.update(images=True)), "^results: images is 'True'"),
        (damaged(lambda v: v.update(extra=1)), "^results has extra, which hfgen does not know"),
        (damaged(lambda v: v["likelihood"].update(metrics=[])), r"^results: likelihood: metrics is '\[\]'"),
        (damaged(lambda v: v["likelihood"].update(seconds="x")), "^results: likelihood: seconds is 'x'"),
        (
            damaged(lambda v: v["likelihood"]["metrics"]["vlb_total_bits_per_dim"].update(mean=None)),
            "^results: likelihood: metrics: vlb_total_bits_per_dim: mean is 'None'",
        ),
        (damaged(lambda v: v["likelihood"]["terms"].update(draws=3)), "^results: likelihood: terms: draws is '3'"),
        (damaged(lambda v: v["samples"].update(classes=3)), "^results: samples: classes is '3'"),
    ],
)
def test_what_is_no_result_is_told_in_a_line(value, message):
    with pytest.raises(HfgenError, match=message) as told:
        EvaluationResult.from_json(value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seconds": "x"}, "seconds is 'x'"),
        ({"image_shape": 3}, "image_shape is '3'"),
        ({"held_out_loss": "low"}, "held_out_loss is 'low'"),
        ({"steps": None}, "steps is 'None'"),
    ],
)
def test_what_is_no_training_is_told_in_a_line(repository, tmp_path, change, message):
    value = json.loads((repository / "model_cards/vae-mnist-8bit/training.json").read_text())
    (tmp_path / "training.json").write_text(json.dumps({**value, **change}))
    with pytest.raises(HfgenError, match=message):
        TrainingRecord.load(tmp_path / "training.json")


def test_files_that_are_no_json(tmp_path):
    for content in (b"", b"{", b"\xff\xfe", b"garbage"):
        (tmp_path / "r.json").write_bytes(content)
        with pytest.raises(HfgenError, match=r"r.json cannot be read"):
            EvaluationResult.load(tmp_path / "r.json")


def test_numbers_that_are_none_are_no_numbers_in_the_file(tmp_path):
    nan = result(likelihood=None, samples=None, seconds_per_sample={"1": math.nan})
    nan.save(tmp_path / "r.json")
    assert "NaN" not in (tmp_path / "r.json").read_text()


def test_a_metric_tells_itself():
    assert BITS.text() == "1.500 ± 0.100 bits/dim"
    assert Metric(name="x", mean=2.0, standard_error=math.nan, unit="nats/image").text() == "2.00 nats/image"
    assert Metric(name="x", mean=0.12346).text(4) == "0.1235"


def test_results_show_themselves_in_a_notebook():
    html = result()._repr_html_()
    assert "1.500 ± 0.100 bits/dim" in html
    assert html.count("<tr>") == 2
    assert len(result().plot().axes) == 2
    with pytest.raises(HfgenError, match="no terms over t"):
        result(likelihood=None).plot()


OTHER = {"dataset": "photos", "dataset_fingerprint": "def", "split": "held out", "images": 7, "seed": 5}


def measured(digest, **parts):
    return result(model_digest=digest, **{"likelihood": None, "samples": None, **parts})


def test_parts_of_one_model_are_merged_each_with_its_settings(tmp_path):
    whole = result()
    first = measured("m", likelihood=whole.likelihood)
    second = measured("m", samples=whole.samples, **OTHER, run_metadata={"device": "slate"})
    merged = second.with_earlier(first)
    assert set(merged.metrics) == {"vlb_total_bits_per_dim", "frechet"}
    assert (merged.dataset, merged.images, merged.run_metadata) == ("photos", 7, {"device": "slate"})
    assert merged.measured_on(merged.samples).seed == 5
    on = merged.measured_on(merged.likelihood)
    assert (on.dataset, on.images, on.seed, on.run_metadata["device"]) == ("digits", 60, 0, "abacus")
    assert "measured before, on 60 images of digits/test, seed 0" in merged.table()
    merged.save(tmp_path / "results.json")
    assert EvaluationResult.load(tmp_path / "results.json") == merged


def test_a_part_that_is_measured_again_takes_the_place_of_the_earlier_one():
    whole = result(model_digest="m")
    again = measured("m", likelihood=whole.likelihood, seed=3)
    merged = again.with_earlier(whole)
    assert merged.measured_on(merged.likelihood).seed == 3
    assert merged.measured_on(merged.samples).seed == 0
    # a third time: what is kept still tells when it was measured
    third = measured("m", samples=whole.samples, seed=4).with_earlier(merged)
    assert (third.measured_on(third.likelihood).seed, third.measured_on(third.samples).seed) == (3, 4)


def test_parts_measured_on_the_same_images_tell_it_once():
    whole = result()
    merged = measured("m", samples=whole.samples).with_earlier(measured("m", likelihood=whole.likelihood))
    assert merged == result(model_digest="m")
    assert "measured_on" not in json.dumps(merged.to_json())


@pytest.mark.parametrize(("first", "second"), [("m", "n"), (None, None), (None, "m"), ("m", None)])
def test_results_of_other_weights_are_not_merged(first, second):
    whole = result()
    earlier, later = measured(first, likelihood=whole.likelihood), measured(second, samples=whole.samples)
    assert later.with_earlier(earlier) == later


def test_a_small_error_has_its_digit():
    assert Metric(name="kid", mean=0.00123, standard_error=0.00048).text() == "0.0012 ± 0.0005"
    assert Metric(name="kid", mean=1.23, standard_error=0.45).text() == "1.230 ± 0.450"
    assert Metric(name="kid", mean=1.23, standard_error=math.nan).text() == "1.230"
    assert Metric(name="bound", mean=1.5, standard_error=1e-5, unit="bits/dim").text() == "1.500 ± 0.000 bits/dim"
