"""Work that is broken off and taken up again."""

import json
import os
from pathlib import Path

import pytest
import torch

from hfgen.core.errors import HfgenError
from hfgen.core.resume import Resumable

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

    def half_written(tensors, path):
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
