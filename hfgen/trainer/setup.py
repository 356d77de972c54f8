"""The accelerator of a training, and the way its script starts and ends."""

from __future__ import annotations

import errno
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, gather_object

from hfgen.configs.training import TrainingConfig
from hfgen.core.errors import HfgenError

Result = TypeVar("Result")


def make_accelerator(config: TrainingConfig) -> Accelerator:
    """An accelerator for the flags; `HfgenError` for a logger that is not installed or a precision the device lacks."""
    optimization, logger = config.optimization, config.run.logger
    if logger != "none" and importlib.util.find_spec(logger) is None:
        raise HfgenError(f"logger={logger!r} is not installed: pip install {logger}, or pass --logger none")
    if optimization.mixed_precision == "fp16" and not torch.cuda.is_available():
        raise HfgenError("mixed_precision='fp16' needs a GPU: pass bf16 or no")
    output_dir = config.output_dir
    return Accelerator(
        cpu=torch.accelerator.current_accelerator() is None,  # several processes on CPU are only seen when asked for
        mixed_precision=optimization.mixed_precision,
        gradient_accumulation_steps=optimization.gradient_accumulation_steps,
        step_scheduler_with_optimizer=False,
        log_with=None if logger == "none" else logger,
        project_config=ProjectConfiguration(project_dir=str(output_dir), logging_dir=str(output_dir / "logs")),
    )


def on_main_process(accelerator: Accelerator, action: Callable[[], Result]) -> Result | None:
    """What an action returns on the main process, None on the others; call it on every process.

    Raises its `HfgenError` on all of them: else the others would wait for ever.
    """
    result, failure = None, None
    if accelerator.is_main_process:
        try:
            result = action()
        except HfgenError as error:
            failure = str(error)
    failures = [failure for failure in gather_object([failure]) if failure]
    if failures:
        raise HfgenError(failures[0])
    return result


def run_script(main: Callable[[], object]) -> None:
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


def _end_with(message: str) -> NoReturn:
    if os.environ.get("RANK", "0") == "0":
        print(f"{Path(sys.argv[0]).name}: error: {message}", file=sys.stderr)
    raise SystemExit(1) from None
