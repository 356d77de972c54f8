"""The accelerator of a training, and work of its main process alone."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, gather_object

from hfgen.configs.training import TrainingConfig
from hfgen.core.errors import HfgenError, explain

LOGS = "logs"
Result = TypeVar("Result")
SECONDS_TO_LET_GO = 1.0


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
        project_config=ProjectConfiguration(project_dir=str(output_dir), logging_dir=str(output_dir / LOGS)),
    )


def end_training(accelerator: Accelerator) -> None:
    """End the trackers and the process group; call it on every process.

    Gloo's thread lets go of the tensors of the last message a moment after it has come, and needs the GIL for it, with
    which this thread would wait for the end of that one for ever.
    """
    if accelerator.num_processes > 1:
        accelerator.wait_for_everyone()
        time.sleep(SECONDS_TO_LET_GO)
    accelerator.end_training()


def on_main_process(accelerator: Accelerator, action: Callable[[], Result]) -> Result:
    """What an action returns on the main process, on all; call it on every process.

    Where there are several, whatever the action raises is raised on all of them as `HfgenError`: else the others would wait for ever.
    """
    if accelerator.num_processes == 1:
        return action()
    result, failure = None, None
    if accelerator.is_main_process:
        try:
            result = action()
        except Exception as error:
            failure = explain(error)
    result, failure = gather_object([(result, failure)])[0]
    if failure is not None:
        raise HfgenError(failure)
    return result
