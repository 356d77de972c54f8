"""The benchmark of what stock diffusers draws when it is asked, small."""

import json

import pytest
import torch
from text_repositories import save_untrained

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def benchmarks(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))


def test_words(tmp_path, capsys):
    from words import main, shares

    folder = save_untrained(tmp_path / "model")
    main([str(folder), "--count", "4", "--batch_size", "3", "--out", str(tmp_path / "words.json")])
    result = json.loads((tmp_path / "words.json").read_text())
    assert set(result["by_class"]) == {f"a handwritten {word}" for word in ("zero", "one", "two", "three")}
    assert result["right"] == pytest.approx(sum(result["by_class"].values()) / 4)
    assert (tmp_path / "words.png").is_file()
    assert "of 4 are what was asked for" in capsys.readouterr().out
    found = shares(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 1, 0, 1]), ["a", "b", "c"])
    assert found == {"right": 0.5, "standard_error": 0.25, "by_class": {"a": 0.5, "b": 0.5}}
