"""The speedrun and its ablations, small."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from accelerate.state import AcceleratorState, GradientState
from latent_repositories import save_autoencoder

from hfgen.evaluation import synthetic

RECIPE = """dataset_name: digits
model_config_name_or_path: digits
class_conditional: true
train_batch_size: 8
eval_batch_size: 300
max_train_steps: 3
learning_rate: 2.0e-3
lr_warmup_steps: 1
"""


@pytest.fixture
def speedrun(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import speedrun

    yield speedrun
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def test_rows_are_changes_of_the_recipe(speedrun):
    args = speedrun.parse_args([])
    configs = {
        name: speedrun.parse(args, speedrun.training_flags(args, row.training)) for name, row in speedrun.ROWS.items()
    }
    recipe = configs["the recipe"]
    same = {name for name, config in configs.items() if config == recipe}
    assert same == {name for name, row in speedrun.ROWS.items() if not row.training}
    doubled = configs["batch x 2"].optimization.train_batch_size
    assert doubled == 2 * recipe.optimization.train_batch_size
    assert configs["learning rate x 1/2"].optimization.learning_rate == recipe.optimization.learning_rate / 2


def test_as_many_steps_as_fit_into_the_seconds(speedrun, monkeypatch):
    args = speedrun.parse_args(["--dataset_name", "digits"])
    record = SimpleNamespace(batch_size=64, seconds=20.0)  # 60 steps of 0.25 s, after 5 s of compiling
    monkeypatch.setattr(speedrun.hfgen, "train", lambda config: SimpleNamespace(record=record))
    readings = [{"step": 10 * i, "images_per_second": rate} for i, rate in enumerate((10, 256, 250, 256, 260, 256), 1)]
    monkeypatch.setattr(speedrun, "read_history", lambda path: [*readings, {"step": 60, "validation_loss": 1.0}])
    steps = speedrun.steps_within(100.0, args, speedrun.training_flags(args, {}))
    assert steps == int((0.97 * 100 - 5) / 0.25)


def test_an_autoencoder_has_its_share_of_the_seconds(speedrun, monkeypatch):
    begun = []

    def trained(args, flags, folder, seconds, **which):
        config = speedrun.parse(args, flags, **which)
        begun.append((config.family, getattr(config.model, "autoencoder", None), seconds))
        return folder

    monkeypatch.setattr(speedrun, "trained", trained)
    monkeypatch.setattr(speedrun, "seconds_to_encode", lambda config: 6.0)
    (row,) = (row for row in speedrun.ROWS.values() if row.autoencoder)
    first, _ = speedrun.trainings(speedrun.parse_args(["--seconds", "90"]), row)
    assert begun == [("autoencoder", None, 30.0), ("ddpm", str(first), 54.0)]


def test_encoding_is_timed(speedrun, tmp_path):
    which = {"config": str(speedrun.TRAINING / "dit-digits.yaml")}
    flags = {"dataset_name": "digits", "autoencoder": save_autoencoder(tmp_path / "vae")}
    assert speedrun.seconds_to_encode(speedrun.parse(speedrun.parse_args([]), flags, **which)) > 0


def test_too_few_samples_are_told_before_a_training(speedrun, capsys):
    with pytest.raises(SystemExit):
        speedrun.parse_args(["--samples", "64"])
    assert "--samples 64: the Frechet distance needs 65 at least" in capsys.readouterr().err


def test_a_gan_has_all_of_them_and_takes_no_steps_to_draw(speedrun, monkeypatch, tmp_path):
    begun, asked = [], []

    def trained(args, flags, folder, seconds, **which):
        config = speedrun.parse(args, flags, **which)
        begun.append((config.family, config.model.class_conditional, seconds))
        return folder

    def evaluate(folder, **options):
        asked.append(options)
        return SimpleNamespace(save=lambda out: None)

    monkeypatch.setattr(speedrun, "trained", trained)
    monkeypatch.setattr(speedrun.hfgen, "evaluate", evaluate)
    monkeypatch.setattr(speedrun.EvaluationResult, "load", lambda out: out)
    args = speedrun.parse_args(["--seconds", "90", "--compile"])
    (row,) = (row for row in speedrun.ROWS.values() if row.gan)
    assert len(speedrun.trainings(args, row)) == 1
    assert begun == [("gan", True, 90.0)]
    speedrun.measured(args, row, tmp_path)
    assert "steps" not in asked[0]
    assert asked[0]["compile"] is False


@pytest.mark.slow
def test_rows_are_trained_once_and_measured(speedrun, tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "TRAINING", replace(synthetic.TRAINING, steps=3))
    config, out, table = tmp_path / "recipe.yaml", tmp_path / "s.json", tmp_path / "s.md"
    config.write_text(RECIPE)
    words = "--dataset_name digits --samples 70 --synthetic 70 --steps 2 --batch_size 70".split()
    words += ["--config", str(config), "--work", str(tmp_path / "work"), "--out", str(out), "--markdown", str(table)]
    guided = list(speedrun.ROWS).index("guidance 1.5")
    speedrun.main([*words, "--rows", "0", str(guided)])
    first, second = json.loads(out.read_text())["rows"]
    assert first["seconds"] == second["seconds"] > 0  # one training, drawn from in two ways
    assert (first["steps"], first["batch_size"]) == (3, 8)
    assert first["frechet"] != second["frechet"]
    assert 0 <= first["synthetic_accuracy"] <= 1
    assert "guidance 1.5" in second["samples"]
    assert table.read_text().count("\n| ") == 3
    assert str(tmp_path) not in table.read_text() + out.read_text()
    speedrun.main([*words, "--rows", "0"])  # from what is there
    assert json.loads(out.read_text())["rows"] == [first]
