"""Readings on disk and curves of them."""

import json
import math

import pytest

from hfgen.core.errors import HfgenError
from hfgen.core.history import history_figure, history_line, read_history, write_history


def test_readings_come_back(tmp_path):
    path = tmp_path / "history.jsonl"
    rows = [{"step": 2, "train_loss": 0.5, "learning_rate": 1e-4}, {"step": 4, "validation_loss": 0.25, "epoch": 1}]
    write_history(path, rows)
    assert read_history(path) == rows
    path.write_text(path.read_text() + '{"step": 6, "tra')
    assert read_history(path) == rows
    assert read_history(tmp_path / "none.jsonl") == []


def test_what_is_not_finite_is_null(tmp_path):
    line = history_line({"step": 1, "train_loss": math.nan, "validation_loss": math.inf})
    assert json.loads(line) == {"step": 1, "train_loss": None, "validation_loss": None}
    path = tmp_path / "history.jsonl"
    write_history(path, [{"step": 1, "train_loss": -math.inf}])
    assert read_history(path) == [{"step": 1, "train_loss": None}]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "line 2 is no JSON"),
        ('{"step": 1, "train_loss": NaN}', "line 2 is no JSON .NaN is no number"),
        ('{"step": 1, "train_loss": -Infinity}', "line 2 is no JSON .-Infinity"),
        ('{"step": 1, "train_loss": 1e999}', "line 2: train_loss is inf"),
        ('{"step": 1, "train_loss": "x"}', "line 2: train_loss is 'x'"),
        ('{"step": 1, "train_loss": true}', "line 2: train_loss is True"),
        ('{"step": 1, "train_loss": []}', r"line 2: train_loss is \[\]"),
        ('{"step": 1.5}', "line 2 is .*no reading with its step"),
        ('{"step": true}', "line 2 is .*no reading"),
        ('{"step": -1}', "line 2 is .*no reading"),
        ("{}", "line 2 is .*no reading"),
        ("[1]", "line 2 is .*no reading"),
        ("null", "line 2 is .*no reading"),
        ("[" * 100_000, "line 2 is no JSON"),
    ],
    ids=lambda value: value[:30],
)
def test_a_damaged_line_is_named(tmp_path, line, reason):
    path = tmp_path / "history.jsonl"
    path.write_text(f'{{"step": 1, "train_loss": 1.0}}\n{line}\n')
    with pytest.raises(HfgenError, match=rf"history\.jsonl, {reason}.*: mend this line or remove the file$") as error:
        read_history(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


def test_a_curve_leaves_out_what_is_not_finite(tmp_path):
    rows = [{"step": step, "train_loss": value} for step, value in enumerate((1.0, math.nan, math.inf, 0.5, None), 1)]
    figure = history_figure(rows, "loss, nats")
    (axes,) = figure.axes
    assert axes.lines[0].get_xydata().tolist() == [[1, 1], [4, 0.5]]
    nothing = history_figure([{"step": 1, "train_loss": math.nan}], "loss, nats")
    nothing.savefig(tmp_path / "nothing.png")


def falling(count=200, start=560.0, end=100.0):
    """A loss that falls fast, with a spike."""
    rows = [{"step": 20 * i, "train_loss": end + (start - end) * 0.5 ** (i - 1)} for i in range(1, count + 1)]
    rows[count // 2]["train_loss"] = 1e6
    return rows


def boxes(axis):
    """Of the labels that are drawn."""
    low, high = sorted(axis.get_view_interval())
    ticks = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=False)
    return [label.get_window_extent() for place, label in ticks if low <= place <= high and label.get_text()]


@pytest.mark.parametrize("rows", [falling(), falling(start=1.0, end=0.03), falling(8), falling(2)])
def test_the_beginning_of_a_curve_is_shown_and_a_spike_is_not(rows):
    (axes,) = history_figure(rows, "loss").axes
    low, high = axes.get_ylim()
    assert low < min(row["train_loss"] for row in rows)
    assert rows[0]["train_loss"] < high
    assert len(rows) < 100 or high < 2 * rows[0]["train_loss"]


@pytest.mark.parametrize("rows", [falling(), falling(start=1.0, end=0.03), falling(4), falling(2000, 10.0, 0.1)])
def test_labels_of_ticks_do_not_overlap(rows):
    figure = history_figure([*rows, *({"step": 40 * i, "samples_frechet": 3.0 / i} for i in (1, 5, 20))], "loss")
    figure.canvas.draw()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        found = boxes(axis)
        assert 2 <= len(found) <= 12
        assert not [a for i, a in enumerate(found) for b in found[:i] if a.overlaps(b)]


def test_distances_of_samples_have_panels_of_their_own():
    rows = [{"step": 10, "train_loss": 2.0}, {"step": 10, "samples_frechet": 3.5, "samples_kid": 0.5}]
    loss, frechet, kid = history_figure(rows, "loss, nats").axes
    assert [axes.get_ylabel().split(" of ")[0] for axes in (loss, frechet, kid)] == [
        "loss, nats",
        "Frechet distance",
        "kernel distance",
    ]
    assert frechet.lines[0].get_xydata().tolist() == [[10, 3.5]]
    assert kid.lines[0].get_xydata().tolist() == [[10, 0.5]]
