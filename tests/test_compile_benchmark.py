"""The benchmark of compiled training steps: what it makes of the times that it takes."""

import json

import pytest


@pytest.fixture
def benchmark(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import compile_training

    return compile_training


@pytest.mark.parametrize(("seconds", "faster", "pays"), [(1.0, 2.0, 10), (4.0, 0.5, None)])
def test_steps_that_pay_for_compiling(benchmark, monkeypatch, tmp_path, seconds, faster, pays):
    """Eager steps of 2 s, and a compilation of 10 s before compiled ones."""
    clock = [0.0]
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: clock[0])

    class Loop:
        def __init__(self, name, args):
            self.step, self.first = (seconds, 2.0 + 10.0 - seconds) if args.compile else (2.0, 0.0)

        def __call__(self, steps):
            clock[0] += steps * self.step + self.first
            self.first = 0.0

    monkeypatch.setattr(benchmark.train_throughput, "make_loop", lambda *words: (Loop(*words), 1))
    out = tmp_path / "compile.json"
    benchmark.main(["--presets", "vae:mnist-50d", "--seconds", "6", "--rounds", "3", "--out", str(out)])
    (found,) = json.loads(out.read_text())["results"]
    assert (found["steps_per_round"], found["steps_to_pay"]) == (3, pays)
    assert found["times_faster"] == pytest.approx(faster)
    assert found["seconds_to_compile"] == pytest.approx(10)
