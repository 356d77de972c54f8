"""Whose files are whose: a training removes what it has listed, keeps others out, and loses nothing of anybody else's."""

import json
import os
import signal
import socket
import subprocess
import sys
from errno import ENOLCK

import pytest

from hfgen.core.errors import HfgenError
from hfgen.trainer.checkpoints import checkpoints
from hfgen.trainer.lock import locked
from hfgen.trainer.manifest import Manifest

HOLD = """
import sys, time
from pathlib import Path
from hfgen.trainer.lock import locked

with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def write(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"years of work on {name}")


# what is removed


def test_folder_that_no_training_wrote_is_not_overwritten(train, tmp_path):
    mine = tmp_path / "mine"
    write(mine, "logs/notes.txt", "samples/photo.png", "vae/thesis.tex", "checkpoint-of-my-game.sav")
    before = contents(mine)
    with pytest.raises(
        HfgenError, match=r"mine' is not empty and does not look like a training's.*name another folder"
    ):
        train(output_dir=mine, max_train_steps=2, num_epochs=None, overwrite_output_dir=True)
    assert contents(mine) == before
    assert not (mine / ".hfgen").exists()


@pytest.mark.parametrize("flags", [{}, {"resume_from_checkpoint": "latest"}])
def test_folder_of_somebody_else_is_not_written_to(train, tmp_path, flags):
    write(tmp_path / "mine", "thesis.tex")
    with pytest.raises(HfgenError, match="does not look like a training's"):
        train(output_dir=tmp_path / "mine", **flags)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_no_name_is_no_folder(train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "logs/notes.txt")
    with pytest.raises(HfgenError, match="output_dir='' is no name"):
        train(output_dir="", overwrite_output_dir=True)
    assert (tmp_path / "logs" / "notes.txt").exists()


@pytest.fixture
def overwritten(train, tiny_flags):
    """Train, let `change` do something to the folder, and train again in its place; returns the folder."""

    def run(change):
        out = train(num_epochs=1, save_images_epochs=1, ddpm_num_inference_steps=2, logger="tensorboard")
        change(out)
        return train(num_epochs=1, overwrite_output_dir=True)

    return run


@pytest.mark.slow
def test_overwriting_removes_what_a_training_wrote_and_nothing_else(overwritten, tmp_path):
    theirs = {
        "notes.txt", "checkpoint-4/notes.txt", "logs/notes.txt", "logs/hfgen/photo.png", "samples/photo.png",
        "unet/thesis.tex", "checkpoint-of-my-game.sav", "results.txt",
    }  # fmt: skip
    before = {}

    def change(out):
        before.update(contents(out))
        write(out, *theirs)

    out = overwritten(change)
    after = contents(out)
    assert theirs <= after.keys()
    gone = before.keys() - after.keys()
    assert gone == {name for name in before if name.startswith(("logs/", "samples"))}
    assert {"checkpoint-4/trainer_state.json", "unet/config.json", "README.md"} <= after.keys()
    listed = Manifest(out).files
    assert listed == after.keys() - theirs - {".hfgen/manifest.json", ".hfgen/lock"}


@pytest.mark.slow
def test_links_are_removed_and_what_they_point_to_stays(overwritten, tmp_path):
    away = {name: tmp_path / "scratch" / name for name in ("logs", "checkpoint-4", "samples", "unet")}
    (tmp_path / "scratch").mkdir()
    photo = tmp_path / "photo.png"
    photo.write_text("a photo")
    before = {}

    def change(out):
        for name, place in away.items():
            (out / name).rename(place)
            (out / name).symlink_to(place)
        (out / "loss.png").unlink()
        (out / "loss.png").symlink_to(photo)
        before.update(contents(tmp_path / "scratch"))

    out = overwritten(change)
    assert contents(tmp_path / "scratch") == before
    assert photo.read_text() == "a photo"
    assert not any(path.is_symlink() for path in out.iterdir())


@pytest.mark.slow
def test_thinning_out_removes_the_link_of_a_checkpoint_on_another_disk(train, tmp_path):
    flags = {"num_epochs": 1, "checkpointing_steps": 2}
    out = train(**flags)
    (out / "checkpoint-2").rename(tmp_path / "away")
    (out / "checkpoint-2").symlink_to(tmp_path / "away")
    before = contents(tmp_path / "away")
    train(resume_from_checkpoint="latest", checkpoints_total_limit=1, **flags)
    assert [path.name for path in checkpoints(out)] == ["checkpoint-4"]
    assert not os.path.lexists(out / "checkpoint-2")
    assert contents(tmp_path / "away") == before


@pytest.mark.slow
def test_card_that_somebody_has_taken_over_stays(overwritten):
    def change(out):
        (out / "README.md").write_text("---\nlicense: mit\n---\n# My digits\n")

    assert "# My digits" in (overwritten(change) / "README.md").read_text()


@pytest.mark.parametrize(
    "text", ["[]", "{}", "no", '{"files": ["../victim"]}', '{"files": ["/etc/passwd"]}', '{"files": [3]}']
)
def test_damaged_list_is_told_and_nothing_is_removed(train, tmp_path, text):
    out = tmp_path / "out"
    write(out, "unet/thesis.tex")
    (out / ".hfgen").mkdir()
    (out / ".hfgen" / "manifest.json").write_text(text)
    before = contents(out)
    with pytest.raises(HfgenError, match=r"manifest.json (is no list of a training's files|cannot be read)"):
        train(output_dir=out, overwrite_output_dir=True)
    assert contents(out) == before


# one training a folder


def hold(folder):
    (folder / ".hfgen").mkdir(parents=True, exist_ok=True)
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    return holder


@pytest.mark.slow
def test_second_training_is_told_at_once_who_holds_the_folder(train, tmp_path, monkeypatch):
    monkeypatch.setattr("hfgen.trainer.train.load_training_set", lambda *_, **__: pytest.fail("data were read"))
    out = tmp_path / "out"
    holder = hold(out)
    told = rf"belongs to a training that is running \(process {holder.pid} on {socket.gethostname()}, since 20"
    for flags in ({}, {"resume_from_checkpoint": "latest"}, {"overwrite_output_dir": True}):
        with pytest.raises(HfgenError, match=told):
            train(output_dir=out, **flags)
    assert json.loads((out / ".hfgen" / "lock").read_text())["process"] == holder.pid
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with pytest.raises(pytest.fail.Exception, match="data were read"):
        train(output_dir=out)


def test_worker_of_a_dead_training_does_not_keep_the_lock(tmp_path):
    """A process that was forked while the lock was held, as those are that decode images."""
    (tmp_path / ".hfgen").mkdir()
    started, told = os.pipe()
    with locked(tmp_path):
        worker = os.fork()
        if worker == 0:
            os.write(told, b"!")
            signal.pause()
            os._exit(0)
        os.read(started, 1)
    try:
        with locked(tmp_path):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)


def test_where_there_are_no_locks_a_line_says_so(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise OSError(ENOLCK, os.strerror(ENOLCK))

    (tmp_path / ".hfgen").mkdir()
    monkeypatch.setattr("hfgen.trainer.lock.fcntl.flock", fail)
    with locked(tmp_path):
        told = capsys.readouterr().err
    assert told == f"{tmp_path} cannot be locked (No locks available): see to it that no other training writes there\n"


def test_lock_is_not_taken_through_a_link(tmp_path):
    (tmp_path / ".hfgen").mkdir()
    (tmp_path / "victim").write_text("years of work")
    (tmp_path / ".hfgen" / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(HfgenError, match="lock cannot be opened"), locked(tmp_path):
        pass
    assert (tmp_path / "victim").read_text() == "years of work"


def test_folder_that_was_made_for_nothing_is_gone(train, tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        with pytest.raises(HfgenError):
            train(output_dir=tmp_path / name, resolution=7)
    assert not (tmp_path / "new").exists()
    assert not list((tmp_path / "empty").iterdir())


def test_what_a_finished_training_left_says_that_nobody_holds_it(train):
    out = train(num_epochs=1)
    assert (out / ".hfgen" / "lock").read_text() == ""
    assert checkpoints(out)
