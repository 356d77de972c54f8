"""The script for a GPU, in small on the CPU."""

import json
import sys

import pytest
from accelerate.state import AcceleratorState, GradientState

ROW = 'import json; print("ROW " + json.dumps({"images/s": 3.0}), flush=True);'


@pytest.fixture
def gpu(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    import gpu

    yield gpu
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def measured(loop, rate, precision="float32", ratio=1.0):
    return {"batch": 64, "precision": precision, "loop": loop, "images/s": rate, "to the bare step": ratio}


@pytest.mark.parametrize(
    ("code", "ended"),
    [
        ("", "done"),
        ("import time; time.sleep(60)", "out of time after 1 s"),
        ("import sys; sys.exit('no such card')", "failed: no such card"),
        (
            "import sys; sys.stderr.write('the reason\\n'); sys.exit('Command failed')",
            "failed: the reason | Command failed",
        ),
        ("print('--capture: steps are not captured, as x')", "done; --capture: steps are not captured, as x"),
    ],
)
def test_rows_of_a_part_are_kept_however_it_ends(gpu, code, ended):
    rows = []
    assert gpu.run_part([sys.executable, "-c", ROW + code], 1.0 if "sleep" in code else 30.0, rows.append) == ended
    assert rows == [{"images/s": 3.0}]


def test_all_parts_together_take_eight_minutes_at_most(gpu):
    assert sum(part.seconds for part in gpu.PARTS.values()) + 1.0 * len(gpu.PARTS) <= 480


def test_goals_are_read_off_the_rows(gpu):
    eager = [measured("hfgen", 960.0, ratio=0.96), measured("PIL DataLoader", 200.0, ratio=0.2)]
    drawn = [{"batch": 64, "mode": mode, "images/s": rate} for mode, rate in (("eager", 10.0), ("captured", 25.0))]
    parts = {"eager": {"ended": "done", "rows": eager}, "sampling": {"ended": "done", "rows": drawn}}
    told = {words: (value, less) for words, _, value, less in gpu.goals(parts)}
    assert told == {
        "the loop to the bare step, batch 64": (0.96, False),
        "the loop to PIL images in a DataLoader, batch 64": (4.8, False),
        "captured sampling to eager, batch 64": (2.5, False),
    }
    parts["captured"] = {"ended": "out of time after 40 s", "rows": [measured("hfgen", 2000.0)]}
    parts["speedrun"] = {"ended": "done", "rows": [{"frechet": 0.25, "synthetic_accuracy": 0.98}]}
    result = {"device": "a card", "versions": {}, "settings": {"dataset_name": "mnist", "small": False}, "parts": parts}
    lines = [line for line in gpu.markdown(result).splitlines() if line.endswith(("| yes |", "| no |"))]
    assert [line.split(" | ")[2:] for line in lines] == [
        ["0.960", "yes |"],
        ["10", "yes |"],
        ["2.5", "no |"],
        ["0.250", "yes |"],
        ["0.980", "no |"],
    ]
    assert "This part: out of time after 40 s." in gpu.markdown(result)


@pytest.mark.slow
def test_parts_in_small(gpu, tmp_path):
    args = gpu.parse_args(["--small", "--dataset_name", "digits", "--out", str(tmp_path / "gpu.json")])
    drawn, bound = (list(gpu.PARTS[name].rows(args)) for name in ("sampling", "likelihood"))
    assert [(row["mode"], row["batch"]) for row in drawn] == [("eager", 4)]
    assert bound[0]["evaluations/s"] > 0
    assert [row["loop"] for row in gpu.PARTS["vae"].rows(args)] == ["hfgen", "bare step", "PIL DataLoader"]


@pytest.mark.slow
def test_the_script_in_small(gpu, tmp_path, capsys):
    out, page = tmp_path / "gpu.json", tmp_path / "gpu.md"
    words = ["--small", "--dataset_name", "digits", "--out", str(out), "--markdown", str(page)]
    gpu.main([*words, "--parts", "eager"])
    rows = json.loads(out.read_text())["parts"]["eager"]["rows"]
    assert [(row["precision"], row["loop"]) for row in rows] == [
        (precision, loop) for precision in ("float32", "bf16") for loop in ("hfgen", "bare step", "PIL DataLoader")
    ]
    assert min(row["images/s"] for row in rows) > 0
    assert "## Training, eager" in page.read_text()
    assert str(tmp_path) not in page.read_text() + out.read_text()
    gpu.main([*words, "--minutes", "0.01"])  # no time for any part
    assert {part["ended"] for part in json.loads(out.read_text())["parts"].values()} == {"not begun: the time was up"}
