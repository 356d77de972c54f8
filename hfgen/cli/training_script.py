"""What the scripts in training/ run: a command line becomes a training."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hfgen.cli.parser import parse_training_config
from hfgen.core.ending import debug_asked, exit_status

INTERRUPTED = "interrupted: start again with --resume_from_checkpoint latest"


def run_script(family: str, argv: Sequence[str] | None = None) -> int:
    """Train a family's model as a command line says; returns the exit status, as `exit_status` does.

    A wrong flag ends the process with status 2.
    """
    words = sys.argv[1:] if argv is None else argv

    def run() -> None:
        config = parse_training_config(family, words)
        from hfgen.trainer.train import train  # after the flags are known to be right: it takes seconds to import

        train(config)

    return exit_status(run, program=Path(sys.argv[0]).name, debug=debug_asked(words), interrupted=INTERRUPTED)
