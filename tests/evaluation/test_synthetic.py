"""A classifier of samples alone, of samplers whose samples are known; and what a comparison tells of it."""

import shlex
from dataclasses import replace

import pytest
import torch
from torch import nn

from hfgen.configs.evaluation import ComparisonConfig, EvaluationConfig, FeatureTrainingConfig
from hfgen.core.errors import HfgenError
from hfgen.core.resume import Resumable
from hfgen.data.choice import choose_images
from hfgen.evaluation import synthetic as module
from hfgen.evaluation.comparison_page import command, html_page
from hfgen.evaluation.comparison_rows import PROPERTIES, Entry, comparison_rows, explanations
from hfgen.evaluation.samples import Draws
from hfgen.evaluation.timing import evaluations_of
from hfgen.results import EvaluationResult, Metric, SyntheticResult, TrainingRecord

SHAPE, COUNT = (1, 8, 8), 400
BACKWARDS = tuple(str(i) for i in reversed(range(10)))


@pytest.fixture(scope="module")
def images():
    return choose_images(EvaluationConfig(dataset_name="digits"), {})


@pytest.fixture(scope="module")
def real(images):
    """Real training images with their classes, in the order of a model that names its classes backwards."""
    data = images.training(None).load(SHAPE, torch.device("cpu"), choose=lambda count: torch.arange(COUNT))
    return next(iter(data.images.batches([torch.arange(COUNT)]))), 9 - data.labels


class Known:
    """Draws real images, of their own class or of the next."""

    calls, fixed_batch, how = 0, False, "known"

    def __init__(self, real, shift, names=BACKWARDS):
        self.pixels, self.classes = real
        self.shift, self.class_names = shift, list(names) or None

    def draw(self, generators, first, on_step=None):
        return self.pixels[first : first + len(generators)].float() / 255

    def warm_up(self, generators, first):
        pass

    def labels(self, count):
        return (self.classes[:count] + self.shift) % 10


def draws(sampler, count=COUNT):
    device = torch.device("cpu")
    return Draws(sampler=sampler, device=device, count=count, seed=0, batch_size=64, resumable=Resumable(None))


def test_it_learns_what_the_samples_say(images, real, monkeypatch):
    """Real images in place of samples come near to the floor; with each taken for the next class nothing is right."""
    monkeypatch.setattr(module, "TRAINING", FeatureTrainingConfig(steps=60, batch_size=32, learning_rate=5e-3))
    found = {}
    for shift in (0, 1):
        asked = draws(Known(real, shift))
        classes = module.real_classes(asked, SHAPE, images, None, "model")
        found[shift] = module.evaluate_synthetic(asked, classes, SHAPE)
    right, wrong = (found[shift].metrics["synthetic_accuracy"].mean for shift in (0, 1))
    floor = found[0].metrics["synthetic_accuracy_floor"]
    assert right > 0.6
    assert right == pytest.approx(floor.mean, abs=0.15)
    assert wrong < 0.2
    share, count = found[0].metrics["synthetic_accuracy"], found[0].reference
    assert share.standard_error == pytest.approx((share.mean * (1 - share.mean) / (count - 1)) ** 0.5)
    assert f"{COUNT} real images, the floor" in floor.name


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), "model is told no classes, its samples teach no classifier"),
        (("cat", "dog"), "has not the model's classes"),
    ],
)
def test_models_that_cannot_teach_these_classes_are_one_line(images, real, names, words):
    with pytest.raises(HfgenError, match=f"classifier_accuracy: .*{words}"):
        module.real_classes(draws(Known(real, 0, names)), SHAPE, images, None, "model")


def test_evaluations_are_the_rows_that_a_network_is_asked_about():
    network = nn.Linear(3, 1)
    with evaluations_of(network) as counted:
        for _ in range(4):
            network(input=torch.zeros(2, 3))
    network(torch.zeros(5, 3))
    assert counted.per_sample(2) == 4
    with evaluations_of(network) as counted:
        pass
    assert counted.per_sample(2) == 1


def result(**parts):
    about = {"dataset": "digits", "dataset_fingerprint": "", "split": "test", "images": 9, "seed": 0}
    known = {"family": "gan", "kind": "GAN", "parameters": 5, "run_metadata": {"device": "cpu", "hfgen": "1"}}
    return EvaluationResult(**{**about, **known, **parts})


def accuracy():
    part = {"count": 4, "reference": 9, "how": "one step", "seconds_sampling": 1.0, "seconds_measuring": 1.0}
    metrics = {
        "synthetic_accuracy": Metric(name="a", mean=0.5),
        "synthetic_accuracy_floor": Metric(name="b", mean=0.75),
    }
    return SyntheticResult(metrics=metrics, **part)


def test_results_keep_what_samples_teach(tmp_path):
    with_part = result(synthetic=accuracy(), evaluations_per_sample=2.0, model_digest="x")
    with_part.save(tmp_path / "r.json")
    again = EvaluationResult.load(tmp_path / "r.json")
    assert again == with_part
    assert "a classifier of 4 samples (one step, 1 s) alone, measured on 9 images" in again.table()
    plain = result(model_digest="x")
    assert not {"synthetic", "evaluations_per_sample"} & set(plain.to_json())
    kept = plain.with_earlier(again)
    assert (kept.synthetic, kept.evaluations_per_sample) == (with_part.synthetic, 2.0)


@pytest.mark.parametrize(
    ("device", "processes", "told"),
    [
        ("AMD EPYC, 1 thread", 1, "at most 30"),
        ("Arm, x4, 8 threads", 2, "at most 480"),
        ("NVIDIA H200", 1, None),
    ],
)
def test_work_that_was_not_recorded_is_at_most_that_of_the_threads(repository, device, processes, told):
    """Half an hour by the clock."""
    record = TrainingRecord.load(repository / "model_cards/vae-mnist-8bit/training.json")
    old = replace(record, seconds=1800.0, cpu_seconds=None, processes=processes, run_metadata={"device": device})
    rows = comparison_rows([Entry(name="a", result=result(), training=old, pictures={})])
    table = {row[0]: row[1] for row in rows}
    assert table.get("training, CPU-minutes") == told


def test_rows_tell_what_a_kind_has_and_why_it_has_not(repository):
    trained = TrainingRecord.load(repository / "model_cards/vae-mnist-8bit/training.json")
    trained = TrainingRecord.from_json({**trained.to_json(), "cpu_seconds": 7200.0})
    entries = [
        Entry(name="a", result=result(synthetic=accuracy(), evaluations_per_sample=1.0), training=trained,
              pictures={}, likelihood="none"),
        Entry(name="b", result=result(evaluations_per_sample=250.0), training=None, pictures={}, likelihood="bound",
              no_accuracy="told no classes"),
    ]  # fmt: skip
    rows = comparison_rows(entries)
    table = {row[0]: row[1:] for row in rows}
    assert table["likelihood"] == ["none", "bound"]
    assert table["network evaluations a sample"] == ["1", "250"]
    assert table["classifier accuracy on synthetic images alone"] == ["0.500 (floor 0.750)", "– (told no classes)"]
    assert table["training, CPU-minutes"] == ["120", "–"]
    meanings = explanations(rows)
    assert list(meanings) == [row[0] for row in rows[1:]]
    page = html_page(rows, entries, meanings, ComparisonConfig(models=("a", "b"), evaluation=EvaluationConfig()))
    assert all(f"<dt>{label}</dt>" in page for label in meanings)
    assert '<td data-of="b">250</td>' in page
    assert "prefers-color-scheme: dark" in page
    assert not any("classifier accuracy" in row[0] for row in comparison_rows(entries[1:]))


def test_every_row_is_explained_in_one_sentence():
    for each in PROPERTIES:
        assert each.meaning.endswith(".")
        assert each.meaning.count(". ") == 0


def test_the_page_tells_the_command_that_makes_it_again():
    options = {"prompt": ("a three", "a big seven"), "steps": 3}
    config = ComparisonConfig(
        models=("a", "/home/me/my models/b"),
        evaluation=EvaluationConfig(samples=9, label_column="my label", options=options),
        repeat=1,
    )
    told = command(config)
    args = shlex.split(told)
    assert args[:4] == ["hfgen", "compare", "a", "b"]
    assert {"--repeat", "my label", "a three", "a big seven"} <= set(args)
    assert "/home/me" not in told
