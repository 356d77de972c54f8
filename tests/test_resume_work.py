"""Work that is broken off and taken up again."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hfgen.core.errors import HfgenError
from hfgen.core.resume import Resumable, tensors_digest

PARTS = {"values": torch.arange(6, dtype=torch.float64).view(2, 3), "count": torch.tensor(7)}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "deep" / ".results.json.unfinished"


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


def test_what_was_saved_is_there_for_the_same_settings(folder):
    first = Resumable(folder, {"seed": 0, "split": "test"})
    assert first.load("part") is None
    first.save("part", PARTS)
    assert same(first.load("part"), PARTS)
    again = Resumable(folder, {"split": "test", "seed": 0})
    assert same(again.load("part"), PARTS)
    assert again.load("other") is None


def test_a_part_is_replaced(folder):
    resumable = Resumable(folder, {})
    resumable.save("part", PARTS)
    resumable.save("part", {"values": torch.zeros(1)})
    assert same(resumable.load("part"), {"values": torch.zeros(1)})
    assert sorted(path.name for path in folder.iterdir()) == ["part.safetensors", "settings.json"]


def test_other_settings_start_anew(folder):
    Resumable(folder, {"seed": 0}).save("part", PARTS)
    assert Resumable(folder, {"seed": 1}).load("part") is None
    assert [path.name for path in folder.iterdir()] == ["settings.json"]
    assert json.loads((folder / "settings.json").read_text()) == {"seed": 1}
    assert Resumable(folder, {"seed": 0}).load("part") is None


def test_settings_cut_short_start_anew(folder):
    Resumable(folder, {"seed": 0}).save("part", PARTS)
    path = folder / "settings.json"
    path.write_text(path.read_text()[:3])
    assert Resumable(folder, {"seed": 0}).load("part") is None


def test_finished_work_leaves_nothing(folder):
    resumable = Resumable(folder, {})
    resumable.save("part", PARTS)
    resumable.finish()
    assert not folder.exists()
    assert folder.parent.is_dir()


def test_refused_work_leaves_nothing_and_work_begun_stays(folder):
    refused = Resumable(folder, {})
    refused.finish_if_empty()
    assert not folder.exists()
    begun = Resumable(folder, {})
    begun.save("part", PARTS)
    begun.finish_if_empty()
    assert same(begun.load("part"), PARTS)


def test_without_a_folder_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nothing = Resumable(None)
    nothing.save("part", PARTS)
    assert nothing.load("part") is None
    nothing.finish_if_empty()
    nothing.finish()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failing", ["save_file", "replace"])
def test_a_part_is_written_whole_or_not_at_all(folder, monkeypatch, failing):
    """A full disk in the middle of the file, or at its renaming: the part before it stays."""
    resumable = Resumable(folder, {})
    resumable.save("part", PARTS)

    def half_written(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    def not_renamed(*_):
        raise OSError(28, "No space left on device")

    if failing == "save_file":
        monkeypatch.setattr("hfgen.core.resume.save_file", half_written)
    else:
        monkeypatch.setattr(os, "replace", not_renamed)
    with pytest.raises(HfgenError, match=r"part.safetensors cannot be written .*No space left.*make room") as caught:
        resumable.save("part", {"values": torch.zeros(1)})
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    assert same(Resumable(folder, {}).load("part"), PARTS)


def test_a_file_in_the_folder_s_place(folder):
    folder.parent.mkdir()
    folder.write_text("")
    with pytest.raises(HfgenError, match=r"unfinished cannot be written .*remove it or make room"):
        Resumable(folder, {})


def written_otherwise(tensors):
    """A part that is a proper file of safetensors, and not the one that was saved."""
    return lambda path: save_file(tensors, path)


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def flip(path):
    """One bit of the last number."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def replaced_by(make):
    def damage(path):
        path.unlink()
        make(path)

    return damage


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"\xff" * 200),
    "cut short": cut,
    "a bit flipped": flip,
    "other names": written_otherwise({"other": PARTS["values"], "count": PARTS["count"]}),
    "another shape": written_otherwise({**PARTS, "values": torch.zeros(2, 4, dtype=torch.float64)}),
    "the same without a digest": written_otherwise(PARTS),
    "a folder": replaced_by(Path.mkdir),
    "a FIFO": replaced_by(os.mkfifo),
    "a link to nothing": replaced_by(lambda path: path.symlink_to("nowhere")),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_part_that_is_damaged_is_done_anew(folder, damage, capsys):
    resumable = Resumable(folder, {"seed": 0})
    resumable.save("part", PARTS)
    resumable.save("other", PARTS)
    damage(folder / "part.safetensors")
    again = Resumable(folder, {"seed": 0})
    assert again.load("part") is None
    assert capsys.readouterr().err == f"hfgen: {folder / 'part.safetensors'} is damaged: it is done anew\n"
    assert same(again.load("other"), PARTS)
    again.save("part", PARTS)
    assert same(again.load("part"), PARTS)


@pytest.mark.parametrize("source", ["another part", "another work"])
def test_a_part_of_something_else_is_not_taken(folder, source):
    resumable = Resumable(folder, {"seed": 0})
    resumable.save("part", PARTS)
    if source == "another part":
        shutil.copy(folder / "part.safetensors", folder / "first.safetensors")
        assert resumable.load("first") is None
    else:
        other = Resumable(folder.with_name("other"), {"seed": 1})
        shutil.copy(folder / "part.safetensors", other.folder)
        assert other.load("part") is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"\xff\x00"),
        lambda path: path.write_text("["),
        lambda path: path.write_text("[" * 100_000),
        replaced_by(Path.mkdir),
        replaced_by(os.mkfifo),
    ],
)
def test_settings_that_are_damaged_start_anew(folder, damage, capsys):
    Resumable(folder, {"seed": 0}).save("part", PARTS)
    damage(folder / "settings.json")
    again = Resumable(folder, {"seed": 0})
    assert capsys.readouterr().err == f"hfgen: {folder / 'settings.json'} is damaged: all is done anew\n"
    assert again.load("part") is None
    again.save("part", PARTS)
    assert same(Resumable(folder, {"seed": 0}).load("part"), PARTS)


def test_work_of_other_settings_is_not_thrown_away_in_silence(folder, capsys):
    Resumable(folder, {"seed": 0}).save("part", PARTS)
    Resumable(folder, {"seed": 1})
    assert capsys.readouterr().err == f"hfgen: {folder} holds work of other settings: all is done anew\n"


def test_a_digest_is_of_names_types_shapes_values_and_words():
    values = torch.arange(6)
    digests = [
        tensors_digest({"a": values}),
        tensors_digest({"b": values}),
        tensors_digest({"a": values.int()}),
        tensors_digest({"a": values.view(2, 3)}),
        tensors_digest({"a": values + 1}),
        tensors_digest({"a": values}, "word"),
        tensors_digest({"a": values, "b": values}),
    ]
    assert len(set(digests)) == len(digests)
    assert tensors_digest({"b": values, "a": values[:0]}) == tensors_digest({"a": values[:0], "b": values})
    assert tensors_digest({"a": torch.arange(12)[::2]}) == tensors_digest({"a": 2 * values})
