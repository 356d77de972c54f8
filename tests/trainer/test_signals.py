"""Signals end a training after a step, with a checkpoint from which it goes on as if nothing had happened."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from hfgen.core.device import LAUNCHED
from hfgen.core.ending import Interrupted
from hfgen.trainer.checkpoints import checkpoints
from hfgen.trainer.ema import WeightAverage
from hfgen.trainer.signals import Request, Signals

BIN = Path(sys.executable).parent
LONG = {"num_epochs": 100_000, "lr_scheduler": "constant", "checkpointing_steps": 1000}
GO_ON = "start again with --resume_from_checkpoint latest"
TORCHRUN = (str(BIN / "torchrun"), "--nproc_per_node", "2", "--master_port", "29533")
LAUNCH = (str(BIN / "accelerate"), "launch", "--quiet", "--cpu", "--num_processes", "1", "--num_machines", "1")


@pytest.fixture
def sent(monkeypatch):
    """Send this process a signal after the step that is being done when it has been called so often."""

    def at(**numbers):
        steps = []
        update = WeightAverage.update

        def send(self):
            update(self)
            steps.append(1)
            for name, step in numbers.items():
                if len(steps) == step:
                    os.kill(os.getpid(), getattr(signal, name))

        monkeypatch.setattr(WeightAverage, "update", send)

    return at


def weights(checkpoint):
    return load_file(checkpoint / "model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(value.equal(other[name]) for name, value in one.items())


# in this process


@pytest.mark.parametrize(
    ("name", "status", "told"),
    [("SIGTERM", 143, "stopped by SIGTERM"), pytest.param("SIGINT", 130, "interrupted", marks=pytest.mark.slow)],
)
def test_signal_ends_the_step_with_a_checkpoint(train, tmp_path, sent, name, status, told):
    whole = train(output_dir=tmp_path / "whole", num_epochs=2)
    handler = signal.getsignal(getattr(signal, name))
    out = tmp_path / "out"
    sent(**{name: 3})
    with pytest.raises(Interrupted) as ended:
        train(output_dir=out, num_epochs=2)
    assert (str(ended.value), ended.value.status) == (f"{told} after step 3: {GO_ON}", status)
    assert [path.name for path in checkpoints(out)] == ["checkpoint-3"]
    assert signal.getsignal(getattr(signal, name)) is handler
    assert (out / ".hfgen" / "lock").read_text() == ""
    train(output_dir=out, num_epochs=2, resume_from_checkpoint="latest")
    assert [path.name for path in checkpoints(out)] == ["checkpoint-3", "checkpoint-4", "checkpoint-8"]
    assert same(weights(out / "checkpoint-8"), weights(whole / "checkpoint-8"))


@pytest.mark.slow
def test_signal_in_the_last_step_of_an_epoch_leaves_its_end_to_the_one_that_goes_on(train, tmp_path, sent):
    flags = {"num_epochs": 2, "save_images_epochs": 1, "ddpm_num_inference_steps": 2}
    whole, out = train(output_dir=tmp_path / "whole", **flags), tmp_path / "out"
    sent(SIGTERM=4)
    with pytest.raises(Interrupted):
        train(output_dir=out, **flags)
    assert not (out / "samples").exists()
    train(output_dir=out, resume_from_checkpoint="latest", **flags)
    assert (out / "samples.png").read_bytes() == (whole / "samples.png").read_bytes()
    for path in (whole / "samples").iterdir():
        assert (out / "samples" / path.name).read_bytes() == path.read_bytes()
    rows = [path.read_text().count("validation_loss") for path in (whole / "history.jsonl", out / "history.jsonl")]
    assert rows == [2, 2]


def test_sigusr1_writes_a_checkpoint_and_goes_on(train, sent):
    sent(SIGUSR1=2)
    out = train(num_epochs=1)
    assert [path.name for path in checkpoints(out)] == ["checkpoint-2", "checkpoint-4"]


def test_signal_before_the_first_step_leaves_nothing(train, tiny_flags, monkeypatch):
    monkeypatch.setattr("hfgen.trainer.train.set_seed", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted, match=f"stopped by SIGTERM: {GO_ON}"):
        train()
    assert not tiny_flags["output_dir"].exists()


def test_signal_while_the_figures_are_drawn_ends_at_once(train, tiny_flags, monkeypatch):
    monkeypatch.setattr("hfgen.trainer.train.save_curves", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted, match=f"interrupted: {GO_ON}"):
        train(num_epochs=1)
    monkeypatch.undo()
    train(num_epochs=1, resume_from_checkpoint="latest")
    assert (tiny_flags["output_dir"] / "loss.png").exists()


class OneProcess:
    """An accelerator of a single one."""

    num_processes = 1
    device = type("cpu", (), {"type": "cpu"})


def test_second_interrupt_ends_at_once_unless_it_is_the_first_ones_echo(monkeypatch):
    with Signals() as signals, signals.deferred(OneProcess):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        assert signals.poll() is Request.INTERRUPT
        monkeypatch.setattr("hfgen.trainer.signals.time.monotonic", lambda: float("inf"))
        with pytest.raises(KeyboardInterrupt) as ended:
            os.kill(os.getpid(), signal.SIGINT)
    assert type(ended.value) is KeyboardInterrupt


@pytest.mark.parametrize("launched", [True, False])
def test_only_a_training_that_a_launcher_started_ends_with_its_parent(monkeypatch, launched):
    """Started by a shell it goes on when the shell ends."""
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    if launched:
        monkeypatch.setenv(LAUNCHED[0], "1")
    with Signals() as signals, signals.deferred(OneProcess):
        assert signals.poll() is Request.NOTHING
        monkeypatch.setattr("os.getppid", lambda: 1)
        assert signals.poll() is (Request.ORPHANED if launched else Request.NOTHING)


# as users and clusters do it


def wait_for(condition, process=None, seconds=180):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def steps_are_done(out):
    return lambda: (out / "history.jsonl").is_file() and (out / "history.jsonl").stat().st_size > 0


def told(err):
    """The lines on stderr, without bars."""
    lines = [line.rpartition("\r")[2] for line in err.splitlines()]
    return [line for line in lines if line and "it/s" not in line and not line.startswith(("steps", "decoding"))]


def workers(launcher):
    """The process numbers of the training's own processes."""
    found = subprocess.run(["pgrep", "-P", str(launcher.pid)], capture_output=True, text=True).stdout
    return [int(word) for word in found.split()]


def is_running(pid):
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_script_ends_with_a_line_and_the_status_of_the_signal(script, train, tmp_path):
    out = tmp_path / "out"
    process = script(output_dir=out, **LONG)
    wait_for(steps_are_done(out), process)
    process.send_signal(signal.SIGUSR1)
    wait_for(lambda: checkpoints(out), process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143
    *_, newest = checkpoints(out)
    step = int(newest.name.removeprefix("checkpoint-"))
    assert told(err) == [f"train_ddpm.py: stopped by SIGTERM after step {step}: {GO_ON}"]
    first = int(checkpoints(out)[0].name.removeprefix("checkpoint-"))
    whole = train(output_dir=tmp_path / "whole", **{**LONG, "num_epochs": None, "max_train_steps": first})
    assert same(weights(out / f"checkpoint-{first}"), weights(whole / f"checkpoint-{first}"))


def test_torchrun_ends_all_processes_after_the_same_step(script, train, tmp_path):
    out = tmp_path / "out"
    flags = {**LONG, "train_batch_size": 8}
    process = script(launcher=TORCHRUN, output_dir=out, **flags)
    wait_for(steps_are_done(out), process)
    trainers = workers(process)
    assert len(trainers) == 2
    os.kill(trainers[1], signal.SIGUSR1)  # one of them asks for all
    wait_for(lambda: checkpoints(out), process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert not any(map(is_running, trainers))
    first, newest = checkpoints(out)
    step = int(newest.name.removeprefix("checkpoint-"))
    assert err.count(f"train_ddpm.py: stopped by SIGTERM after step {step}: {GO_ON}\n") == 1
    steps = int(first.name.removeprefix("checkpoint-"))
    whole = train(output_dir=tmp_path / "whole", **{**LONG, "num_epochs": None, "max_train_steps": steps})
    found = weights(first)
    for name, value in weights(whole / first.name).items():
        # sums of two processes in another order, over some dozen steps of AdamW
        assert (value - found[name]).abs().max() < 1e-3


def test_worker_of_a_killed_launcher_ends_with_a_checkpoint_and_holds_the_folder_until_then(
    script, train, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    process = script(launcher=LAUNCH, output_dir=out, **LONG)
    wait_for(steps_are_done(out), process)
    (trainer,) = workers(process)
    os.kill(trainer, signal.SIGSTOP)
    process.send_signal(signal.SIGKILL)
    process.wait()
    try:
        with pytest.raises(Exception, match=rf"belongs to a training that is running \(process {trainer} on "):
            train(output_dir=out, **LONG, resume_from_checkpoint="latest")
        assert not checkpoints(out)
    finally:
        os.kill(trainer, signal.SIGCONT)
    wait_for(lambda: not is_running(trainer))
    err = process.stderr.read()
    (only,) = checkpoints(out)
    step = only.name.removeprefix("checkpoint-")
    assert told(err)[-1] == f"train_ddpm.py: stopped after step {step}, as the launcher has died: {GO_ON}"


def test_sigterm_to_accelerate_launch_ends_its_worker(script, tmp_path):
    out = tmp_path / "out"
    process = script(launcher=LAUNCH, output_dir=out, **LONG)
    wait_for(steps_are_done(out), process)
    (trainer,) = workers(process)
    process.send_signal(signal.SIGTERM)
    wait_for(lambda: not is_running(trainer))
    _, err = process.communicate(timeout=60)
    assert len(checkpoints(out)) == 1
    assert err.count(GO_ON) == 1
    assert "Traceback" not in err
    shutil.rmtree(out)


def test_sigint_in_a_script(script, tmp_path):
    out = tmp_path / "out"
    process = script(output_dir=out, **LONG)
    wait_for(steps_are_done(out), process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    (only,) = checkpoints(out)
    step = only.name.removeprefix("checkpoint-")
    assert told(err) == [f"train_ddpm.py: interrupted after step {step}: {GO_ON}"]
