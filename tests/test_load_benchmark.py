"""The benchmark of memory over long work: what it calls flat, and that it runs."""

import json

import numpy as np
import pytest
from accelerate.state import AcceleratorState, GradientState


@pytest.fixture
def load(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    import load

    yield load
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def test_a_leak_is_told_from_a_warm_up(load):
    done = np.linspace(0, 2000, 61)[1:]
    warm_up = 500 + 100 * np.minimum(done / 600, 1)
    flat, leaking = load.summary(done, warm_up, 2000), load.summary(done, warm_up + 0.02 * done, 2000)
    assert flat["flat"]
    assert flat["mib_per_1000"] == pytest.approx(0, abs=1e-6)
    assert not leaking["flat"]
    assert leaking["mib_per_1000"] == pytest.approx(20)
    assert (leaking["first_mib"], leaking["last_mib"]) == pytest.approx((warm_up[0] + 0.02 * done[0], 640))


@pytest.mark.slow
def test_every_part_is_measured(load, tmp_path, capsys):
    load.main([*"--steps 6 --samples 16 --images 100".split(), "--out", str(tmp_path / "load.json")])
    parts = json.loads((tmp_path / "load.json").read_text())["parts"]
    assert {name: part["count"] for name, part in parts.items()} == {"training": 6, "sampling": 16, "evaluation": 100}
    for part in parts.values():
        assert 50 < part["first_mib"] <= part["highest_mib"]
        assert part["curve"]
    rows = capsys.readouterr().out.splitlines()[-3:]
    assert [row.split()[0] for row in rows] == list(parts)
