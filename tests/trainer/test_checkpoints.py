"""A checkpoint is whole and of this training, or not used; nothing in it can run code."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load, load_file

from hfgen.core.errors import HfgenError
from hfgen.trainer.checkpoints import DIGESTS_FILE, STATE_FILE, checkpoints
from hfgen.trainer.loop import Trainer

FILES = ("digests.json", "ema.safetensors", "model.safetensors", "optimizer-model.safetensors", "processes.safetensors")


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)


@pytest.fixture
def trained(train, tmp_path_factory, request):
    """A folder with checkpoints of steps 4, 8 and 12."""
    return train()


@pytest.fixture
def fitted(monkeypatch):
    """Trainings that resume and end there; their checkpoints are listed."""
    resumed = []

    def fit(self):
        self._resume()
        resumed.append(self.checkpoint)
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "fit", fit)
    return resumed


def resume(train, **flags):
    with pytest.raises(KeyboardInterrupt):
        train(**flags)


def test_a_checkpoint_holds_tensors_and_json_and_a_digest_of_each(trained):
    folder = trained / "checkpoint-8"
    assert {path.name for path in folder.iterdir()} == {*FILES, STATE_FILE}
    assert json.loads((folder / DIGESTS_FILE).read_text()).keys() == {*FILES, STATE_FILE} - {DIGESTS_FILE}
    for path in folder.iterdir():
        load_file(path) if path.suffix == ".safetensors" else json.loads(path.read_text())


@pytest.mark.slow
def test_damage_is_found_wherever_it_is(trained, train, fitted, tmp_path, capsys):
    """One bit of the values, of each file in turn."""
    for name in (*FILES, STATE_FILE):
        folder = trained / "checkpoint-12"
        shutil.copytree(folder, tmp_path / "kept")
        flip_a_bit(folder / name)
        resume(train, resume_from_checkpoint="latest")
        assert fitted.pop() == trained / "checkpoint-8"
        told = [line for line in capsys.readouterr().err.splitlines() if "damaged" in line]
        assert len(told) == 1
        assert told[0].startswith(f"checkpoint {folder} is damaged (")
        assert told[0].endswith("it is passed over")
        for given in ("checkpoint-12", folder):
            with pytest.raises(HfgenError, match=r"checkpoint-12 is damaged \(.*\): name another, or pass latest"):
                train(resume_from_checkpoint=given)
        shutil.rmtree(folder)
        (tmp_path / "kept").rename(folder)
    resume(train, resume_from_checkpoint="latest")
    assert fitted.pop() == trained / "checkpoint-12"
    (trained / "checkpoint-12" / FILES[1]).unlink()
    with pytest.raises(HfgenError, match=f"checkpoint-12 is damaged .{FILES[1]} is missing"):
        train(resume_from_checkpoint="checkpoint-12")


@pytest.mark.slow
def test_where_none_is_whole_nothing_is_started_in_silence(trained, train):
    for path in checkpoints(trained):
        flip_a_bit(path / "model.safetensors")
    with pytest.raises(HfgenError, match=r"no checkpoint in .* is whole: remove them to start fresh"):
        train(resume_from_checkpoint="latest")


@pytest.mark.slow
def test_a_damaged_checkpoint_is_replaced_by_a_whole_one(trained, train):
    expected = load((trained / "checkpoint-12" / "model.safetensors").read_bytes())
    flip_a_bit(trained / "checkpoint-12" / "model.safetensors")
    train(resume_from_checkpoint="latest", checkpoints_total_limit=1)
    assert [path.name for path in checkpoints(trained)] == ["checkpoint-12"]
    found = load_file(trained / "checkpoint-12" / "model.safetensors")
    assert all(found[name].equal(value) for name, value in expected.items())


@pytest.mark.slow
def test_checkpoints_are_taken_by_the_names_that_are_listed(trained, train, fitted):
    for name in ("checkpoint-4", trained / "checkpoint-8"):
        resume(train, resume_from_checkpoint=name)
        assert fitted.pop() == trained / str(name).rpartition("/")[2]


@pytest.mark.slow
def test_checkpoint_with_pickles_is_not_read(trained, train, monkeypatch):
    """As hfgen 0.1 left them."""
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpickled"))
    for path in checkpoints(trained):
        (path / DIGESTS_FILE).unlink()
        (path / "custom_checkpoint_0.pkl").write_bytes(b"cos\nsystem\n(S'touch /tmp/owned'\ntR.")
    for name in ("latest", "checkpoint-4"):
        with pytest.raises(
            HfgenError, match=r"written by hfgen 0.1 and holds pickles, which can run code: it is not read"
        ):
            train(resume_from_checkpoint=name)


@pytest.mark.slow
def test_checkpoint_of_another_layout_names_it(trained, train, monkeypatch):
    monkeypatch.setattr("hfgen.trainer.checkpoints.LAYOUT", 3)
    with pytest.raises(HfgenError, match=r"another version of hfgen \(layout 2\)"):
        train(resume_from_checkpoint="latest")


@pytest.mark.slow
def test_files_in_the_way_are_no_obstacle_and_stay(train, tiny_flags):
    out = tiny_flags["output_dir"]
    train(num_epochs=1)
    (out / ".unfinished-checkpoint-8").write_text("mine")
    (out / "checkpoint-8").mkdir()
    (out / "checkpoint-8" / "notes.txt").write_text("mine too")
    train(num_epochs=2, lr_scheduler="constant", overwrite_output_dir=True)
    assert (out / ".unfinished-checkpoint-8").read_text() == "mine"
    assert (out / "checkpoint-8" / "notes.txt").read_text() == "mine too"
    assert [path.name for path in checkpoints(out)] == ["checkpoint-4", "checkpoint-8"]


@pytest.mark.slow
def test_other_images_of_the_same_number_are_not_gone_on_with(trained, train, monkeypatch):
    from hfgen.data.loading import ImagesInMemory, load_images

    def changed(reader, device, **options):
        images = load_images(reader, device, **options).images.clone()
        images[-1, 0, 0, 0] ^= 1
        return ImagesInMemory(images)

    monkeypatch.setattr("hfgen.data.training_set.load_images", changed)
    with pytest.raises(
        HfgenError, match=r"held_out_pixels: [0-9a-f]{12} there, [0-9a-f]{12} here; training_pixels: .*pass the same"
    ):
        train(resume_from_checkpoint="latest")


@pytest.mark.slow
def test_images_in_memory_go_on_from_disk(trained, train, fitted, monkeypatch):
    """Where memory is short now, and was not then, the two kinds of digest cannot be compared."""
    monkeypatch.setattr("hfgen.data.loading.MEMORY_SHARE", 0.0)
    resume(train, resume_from_checkpoint="latest")
    assert fitted == [trained / "checkpoint-12"]
