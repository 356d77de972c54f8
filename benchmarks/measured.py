"""What pictures of measured models share: their results files, of one split of one dataset."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from hfgen.results import EvaluationResult

QUANTITY = "log-likelihood of 8-bit pixels"


def parse_args(doc: str | None, argv: Sequence[str] | None) -> argparse.Namespace:
    """`results`, `dataset`, `split` and `out` of a command line."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "results", nargs="+", type=Path, help="results of measured models, each in the folder of its model"
    )
    parser.add_argument("--dataset", default="mnist", help="(default: %(default)s)")
    parser.add_argument("--split", default="test", help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="PNG file of the picture")
    return parser.parse_args(argv)


def is_of(result: EvaluationResult, dataset: str, split: str) -> bool:
    """Whether it was measured there; whose dataset it is does not count, but clips of its pictures are another."""
    made, _, name = result.dataset.rpartition(":")
    return not made and (name.rpartition("/")[2], result.split) == (dataset, split)
