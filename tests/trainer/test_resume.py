"""A killed training goes on as if nothing had happened."""

import json
import os
import signal
import time
from multiprocessing import active_children
from pathlib import Path

import pytest
from safetensors.torch import load_file

from hfgen.core.errors import HfgenError, explain
from hfgen.core.history import read_history
from hfgen.results import TRAINING_FILE, TrainingRecord
from hfgen.trainer.checkpoints import STATE_FILE, checkpoints
from hfgen.trainer.ema import WeightAverage
from hfgen.trainer.loop import Trainer
from hfgen.trainer.manifest import HIDDEN
from hfgen.trainer.output import UNFINISHED

WEIGHTS = Path("unet/diffusion_pytorch_model.safetensors")


def assert_same_weights(one: Path, other: Path):
    a, b = load_file(one / WEIGHTS), load_file(other / WEIGHTS)
    assert a.keys() == b.keys()
    assert all((a[name] == b[name]).all() for name in a)


def kill_when(process, condition):
    """kill -9 the process and its children at the moment the condition holds."""
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def test_killed_process_ends_with_the_weights_of_one_never_interrupted(script, train, tmp_path):
    whole, killed = train(output_dir=tmp_path / "whole", num_epochs=8, lr_scheduler="cosine"), tmp_path / "killed"
    # step 8 ends the second of the epochs of 4 steps; with 32 to come the kill falls within a later one
    process = script(output_dir=killed, num_epochs=8)
    kill_when(process, (killed / "checkpoint-8").exists)
    assert not (killed / "model_index.json").exists()
    out = finish(script(output_dir=killed, num_epochs=8, resume_from_checkpoint="latest"))
    assert "resuming after step" in out
    assert_same_weights(whole, killed)
    steps = [row["step"] for row in read_history(killed / "history.jsonl") if "train_loss" in row]
    assert steps == list(range(2, 33, 2))


def test_killed_while_a_checkpoint_is_written(script, train, tmp_path):
    killed = tmp_path / "killed"
    flags = {"checkpointing_steps": 3, "num_epochs": 12}
    process = script(output_dir=killed, **flags)
    kill_when(
        process,
        lambda: (killed / "checkpoint-6").exists() and list(killed.glob(f"{HIDDEN}/{UNFINISHED}*/{STATE_FILE}")),
    )
    assert all((path / STATE_FILE).is_file() for path in killed.glob("checkpoint-*"))
    train(output_dir=killed, resume_from_checkpoint="latest", **flags)
    assert sorted(path.name for path in (killed / HIDDEN).iterdir()) == ["lock", "manifest.json"]
    assert_same_weights(train(output_dir=tmp_path / "whole", **flags), killed)


@pytest.mark.slow
def test_resuming_mid_epoch_in_the_second_epoch_gives_the_same_weights(train, tmp_path):
    whole = train(output_dir=tmp_path / "whole", checkpointing_steps=6)
    resumed = train(output_dir=tmp_path / "resumed", resume_from_checkpoint=whole / "checkpoint-6")
    assert_same_weights(whole, resumed)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.3, 0.0], ids=["in memory", "streamed"])
def test_dropout_goes_on_with_its_numbers(train, tiny_flags, tmp_path, monkeypatch, share):
    """It draws from torch's global generator, which belongs to a checkpoint and which nothing else may draw from."""
    monkeypatch.setattr("hfgen.data.loading.MEMORY_SHARE", share)
    network = tiny_flags["model_config_name_or_path"]
    network.write_text(json.dumps({**json.loads(network.read_text()), "dropout": 0.5}))
    flags = {"checkpointing_steps": 6, "num_epochs": 2}
    whole = train(output_dir=tmp_path / "whole", **flags)
    resumed = train(output_dir=tmp_path / "resumed", resume_from_checkpoint=whole / "checkpoint-6", **flags)
    assert_same_weights(whole, resumed)


@pytest.mark.slow
def test_a_dead_worker_leaves_whole_checkpoints(train, tmp_path, monkeypatch):
    """As where the system kills one of the processes that decode images because memory runs out."""
    monkeypatch.setattr("hfgen.data.loading.MEMORY_SHARE", 0.0)
    whole, out = train(output_dir=tmp_path / "whole"), tmp_path / "out"
    update, steps = WeightAverage.update, []

    def kill_a_worker(self):
        update(self)
        steps.append(1)
        if len(steps) == 6:
            active_children()[-1].kill()
            time.sleep(0.5)

    with monkeypatch.context() as patch:
        patch.setattr(WeightAverage, "update", kill_a_worker)
        with pytest.raises((HfgenError, RuntimeError)) as ended:
            train(output_dir=out)
    line = explain(ended.value)
    assert line.startswith("a process that decodes images is killed by signal: Killed")
    assert "\n" not in line
    assert [path.name for path in checkpoints(out)] == ["checkpoint-4"]
    assert_same_weights(whole, train(output_dir=out, resume_from_checkpoint="latest"))


@pytest.mark.slow
def test_latest_without_a_checkpoint_starts_fresh(train, tmp_path, capsys):
    fresh = train(output_dir=tmp_path / "fresh")
    capsys.readouterr()
    latest = train(output_dir=tmp_path / "latest", resume_from_checkpoint="latest")
    assert f"no checkpoint in {latest}: starting fresh\n" in capsys.readouterr().out
    assert_same_weights(fresh, latest)


@pytest.mark.slow
def test_total_limit_keeps_the_newest(train):
    out = train(checkpointing_steps=2, checkpoints_total_limit=2)
    assert [path.name for path in checkpoints(out)] == ["checkpoint-10", "checkpoint-12"]


@pytest.mark.slow
def test_folder_without_its_state_file_is_no_checkpoint(train, tmp_path):
    out = train()
    (out / "checkpoint-99").mkdir()
    assert [path.name for path in checkpoints(out)] == ["checkpoint-4", "checkpoint-8", "checkpoint-12"]
    with pytest.raises(HfgenError, match=r"checkpoint-99.*checkpoint-4, checkpoint-8, checkpoint-12"):
        train(resume_from_checkpoint=out / "checkpoint-99")


@pytest.mark.slow
def test_checkpoint_of_another_configuration_names_the_keys(train):
    out = train()
    before = sorted(path.name for path in out.rglob("*"))
    with pytest.raises(HfgenError, match=r"learning_rate: 0.001 there, 0.01 here; seed: 0 there, 7 here"):
        train(resume_from_checkpoint="latest", learning_rate=0.01, seed=7)
    assert sorted(path.name for path in out.rglob("*")) == before


@pytest.mark.slow
def test_constant_learning_rate_can_be_trained_longer(train, tmp_path):
    flags = {"lr_scheduler": "constant"}
    whole = train(output_dir=tmp_path / "whole", num_epochs=3, **flags)
    train(output_dir=tmp_path / "longer", num_epochs=2, **flags)
    longer = train(output_dir=tmp_path / "longer", num_epochs=3, resume_from_checkpoint="latest", **flags)
    assert_same_weights(whole, longer)


@pytest.mark.slow
def test_cpu_time_is_not_told_after_a_checkpoint_that_does_not_know_it(train, monkeypatch):
    flags = {"lr_scheduler": "constant"}
    with monkeypatch.context() as before:
        before.setattr(Trainer, "cpu_seconds", None)
        train(num_epochs=2, **flags)
    out = train(num_epochs=3, resume_from_checkpoint="latest", **flags)
    assert TrainingRecord.load(out / TRAINING_FILE).cpu_seconds is None
