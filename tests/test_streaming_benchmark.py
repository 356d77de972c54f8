"""The benchmark of streamed images: that each way is measured."""

import json

import pytest


@pytest.mark.slow
def test_every_way_is_measured(repository, monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import streaming

    out, page = tmp_path / "out.json", tmp_path / "out.md"
    flags = "--images 1300 --shards 8 --side 8 --batch_size 20".split()
    streaming.main([*flags, "--ways", "memory", "tar", "--out", str(out), "--markdown", str(page)])
    memory, tar = json.loads(out.read_text())["rows"]
    assert (memory["way"], tar["way"]) == ("memory", "tar")
    assert tar["memory"]["count"] == 1300
    assert min(row["images_per_cpu_second"] for row in (memory, tar)) > 0
    assert all(row["memory"]["curve"] and row["memory"]["first_mib"] > 50 for row in (memory, tar))
    assert "| stream of tar |" in page.read_text()
    assert capsys.readouterr().out.count("|") == page.read_text().count("|")
