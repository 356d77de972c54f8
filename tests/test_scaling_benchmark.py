"""How cost grows, small, and the arithmetic of what is on paper."""

import json
import subprocess
import sys

import pytest


@pytest.fixture
def scaling(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import scaling

    return scaling


def test_exponents_are_those_of_powers(scaling):
    rows = [{"side": side, "s": 3.0 * side**1.5} for side in (2, 8, 32)]
    assert scaling.exponent(rows, "side", "s") == pytest.approx(1.5)


def test_paper_without_latency_and_bandwidth_is_amdahl_s_law(scaling, monkeypatch):
    rows = [{"batch": b, "s a step": 0.1 + 0.01 * b, "parameters": 1000} for b in (10, 20, 40)]
    assert scaling.line(rows, "batch", "s a step") == pytest.approx((0.1, 0.01))
    monkeypatch.setattr(scaling, "ETHERNET", (float("inf"), 0.0))
    one, ten, *_ = scaling.on_paper(rows)
    assert one["images/s"] == pytest.approx(40 / 0.5)
    assert ten["images/s"] == pytest.approx(40 / (0.1 + 0.4 / 10))
    assert ten["images/s, 40 each"] == pytest.approx(10 * 40 / 0.5)


def test_messages_of_a_ring(scaling):
    rows = [{"batch": b, "s a step": 0.001 * b, "parameters": 250_000_000} for b in (1, 10)]
    ten = scaling.on_paper(rows)[1]
    messages = 18 / 10 * 1e9 / 1.25e9 + 18 * 50e-6
    assert ten["ms a step, batch shared"] == pytest.approx(1000 * (messages + 0.001))
    assert ten["of which messages"] == pytest.approx(messages / (messages + 0.001))


@pytest.mark.slow
def test_the_script_in_small(repository, tmp_path):
    out, page = tmp_path / "scaling.json", tmp_path / "scaling.md"
    axes = ["side", "batch", "processes", "evaluations"]  # the others are measured as these are
    command = [sys.executable, repository / "benchmarks" / "scaling.py", "--small", "--axes", *axes]
    subprocess.run([*command, "--out", out, "--markdown", page], check=True)
    tables = json.loads(out.read_text())["axes"]
    assert list(tables) == axes
    assert [row["side"] for row in tables["side"]] == [8, 16]
    for name, rows in tables.items():
        assert len(rows) == 2
        # what launched processes take is not this one's
        assert all(row["MiB more"] >= 0 for row in rows) if name != "processes" else rows[1]["images/s"] > 0, name
    assert "## More devices, on paper" in page.read_text()
