"""The accelerator of a training, and work of its main process alone."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, ProjectConfiguration, gather_object

from hfgen.configs.training import TrainingConfig
from hfgen.core.errors import HfgenError, explain
from hfgen.core.processes import LONGEST_WAIT, SECONDS_TO_LET_GO

LOGS = "logs"
Result = TypeVar("Result")
SIZE_BASED = "SIZE_BASED_WRAP"
WRAPS = (SIZE_BASED, "TRANSFORMER_BASED_WRAP")


def make_accelerator(config: TrainingConfig) -> Accelerator:
    """An accelerator for the flags; `HfgenError` for a logger that is not installed or a precision the device lacks."""
    optimization, logger = config.optimization, config.run.logger
    if logger != "none" and importlib.util.find_spec(logger) is None:
        raise HfgenError(f"logger={logger!r} is not installed: pip install {logger}, or pass --logger none")
    # without the flag it is what accelerate launch was told, or is configured for
    precision = optimization.mixed_precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "").lower()
    if precision == "fp16" and not torch.cuda.is_available():
        raise HfgenError("mixed_precision='fp16' needs a GPU: pass bf16 or no")
    if precision == "fp16" and optimization.optimizer == "muon":
        raise HfgenError(
            "optimizer='muon' with mixed_precision='fp16', whose scaled gradients it cannot skip: use bf16"
        )
    check_sharding(os.environ, on_gpu=torch.cuda.is_available())
    output_dir = config.output_dir
    accelerator = Accelerator(
        cpu=torch.accelerator.current_accelerator() is None,  # several processes on CPU are only seen when asked for
        mixed_precision=optimization.mixed_precision,
        gradient_accumulation_steps=optimization.gradient_accumulation_steps,
        step_scheduler_with_optimizer=False,
        # for as long the main process may draw, measure and save by itself
        kwargs_handlers=[InitProcessGroupKwargs(timeout=LONGEST_WAIT)],
        log_with=None if logger == "none" else logger,
        project_config=ProjectConfiguration(project_dir=str(output_dir), logging_dir=str(output_dir / LOGS)),
    )
    if accelerator.is_fsdp2:  # every process makes the network from the seed: nothing has to be sent
        accelerator.state.fsdp_plugin.cpu_ram_efficient_loading = False
    return accelerator


def check_sharding(environment: Mapping[str, str], *, on_gpu: bool) -> None:
    """Raise `HfgenError` unless what `accelerate launch --use_fsdp` has left in the environment, if anything, can be done."""

    def asked(name: str) -> str:
        return environment.get(name, "").upper()

    if asked("ACCELERATE_USE_FSDP") != "TRUE":
        return
    if not on_gpu:
        raise HfgenError("--use_fsdp shards a network over GPUs, and there is none here: leave it out")
    if asked("FSDP_VERSION") != "2":
        raise HfgenError(f"--use_fsdp with FSDP version {environment.get('FSDP_VERSION', '1')}: pass --fsdp_version 2")
    policy, smallest = asked("FSDP_AUTO_WRAP_POLICY"), int(environment.get("FSDP_MIN_NUM_PARAMS", 0))
    if policy not in WRAPS or (policy == SIZE_BASED and smallest < 1):
        raise HfgenError(
            f"--use_fsdp needs to know how large a part to shard by itself is: pass --fsdp_auto_wrap_policy {SIZE_BASED} "
            "--fsdp_min_num_params 1000000"
        )
    for name in ("OFFLOAD_PARAMS", "ACTIVATION_CHECKPOINTING"):
        if asked(f"FSDP_{name}") == "TRUE":
            raise HfgenError(f"--fsdp_{name.lower()} is not supported: leave it out")


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
