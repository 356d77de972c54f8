"""The accelerator of a run, and the way a trainer's script starts and ends."""

from __future__ import annotations

import errno
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration

from hfgen.errors import HfgenError
from hfgen.trainer.config import OptimizationArguments, RunArguments


def make_accelerator(optimization: OptimizationArguments, run: RunArguments) -> Accelerator:
    """An accelerator for the flags; `HfgenError` for a logger that is not installed or a precision the device lacks."""
    if run.logger != "none" and importlib.util.find_spec(run.logger) is None:
        raise HfgenError(f"logger={run.logger!r} is not installed: pip install {run.logger}, or pass --logger none")
    if optimization.mixed_precision == "fp16" and not torch.cuda.is_available():
        raise HfgenError("mixed_precision='fp16' needs a GPU: pass bf16 or no")
    return Accelerator(
        cpu=torch.accelerator.current_accelerator() is None,  # several processes on CPU are only seen when asked for
        mixed_precision=optimization.mixed_precision,
        gradient_accumulation_steps=optimization.gradient_accumulation_steps,
        step_scheduler_with_optimizer=False,
        log_with=None if run.logger == "none" else run.logger,
        project_config=ProjectConfiguration(project_dir=run.output_dir, logging_dir=str(Path(run.output_dir) / "logs")),
    )


def run_script(main: Callable[[], object]):
    """Call a script's main; an `HfgenError` becomes one line on stderr (of one process) and exit status 1."""
    try:
        main()
    except HfgenError as error:
        _end_with(str(error))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        _end_with(f"{error}; complete checkpoints are kept: make room, then pass --resume_from_checkpoint latest")
    except KeyboardInterrupt:
        print("interrupted: start again with --resume_from_checkpoint latest", file=sys.stderr)
        raise SystemExit(130) from None


def _end_with(message: str):
    if os.environ.get("RANK", "0") == "0":
        print(f"{Path(sys.argv[0]).name}: error: {message}", file=sys.stderr)
    raise SystemExit(1) from None
