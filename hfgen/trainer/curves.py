"""The curves of a training, from what it left in its folder."""

from __future__ import annotations

from pathlib import Path

from hfgen.core.history import HISTORY_FILE, plot_history, read_history, terms_of
from hfgen.results import TRAINING_FILE, TrainingRecord

CURVES_FILE = "loss.png"


def save_curves(training: Path, out: Path) -> list[Path]:
    """Draw loss.png into the folder `out`: a panel for the loss and each of its terms; returns its path, if there is a history.

    What the loss is stands in training.json.
    """
    rows = read_history(training / HISTORY_FILE)
    terms = terms_of(rows)
    if not terms:
        return []
    record = training / TRAINING_FILE
    ylabel = TrainingRecord.load(record).loss if record.is_file() else "loss"
    plot_history(rows, out / CURVES_FILE, ylabel, terms)
    return [out / CURVES_FILE]
