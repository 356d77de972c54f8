"""The device that work runs on, and its name."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
import torch

from hfgen.core.errors import HfgenError

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
# what `accelerate launch` and torchrun leave in the environment of a process
LAUNCHED = ("ACCELERATE_DYNAMO_USE_FULLGRAPH", "TORCHELASTIC_RUN_ID")
# parameters of glibc's mallopt (malloc.h), with the variables by which a user sets them, and what suits steps that allocate the same again
MALLOC = {-4: ("MALLOC_MMAP_MAX_", 0), -1: ("MALLOC_TRIM_THRESHOLD_", 2**31 - 1), -2: ("MALLOC_TOP_PAD_", 64 * 2**20)}


def pick_device(name: str | None = None) -> torch.device:
    """The named device, or the first of cuda, mps and cpu that is there; `HfgenError` for one on which nothing can be computed."""
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.ones(1, device=device).add(1).item()  # "meta" makes tensors, which have no values
    except Exception as error:  # each backend of torch has its own for a device that is not there
        raise HfgenError(f"device {name!r} is not available here: use another, such as cpu") from error
    return device


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's with the number of threads that torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'s' * (threads > 1)}" if device.type == "cpu" else device.type


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names and names[0] else platform.processor() or platform.machine()


def set_up_processor(device: torch.device) -> None:
    """Let torch compute well on the processor, if that is the device: on all cores that it may use, and on memory that it keeps."""
    if device.type == "cpu":
        use_share_of_cores(device)
        keep_freed_memory()


def keep_freed_memory() -> None:
    """Let freed buffers stay with the process, where the allocator is glibc's and the user has not tuned it.

    By itself it returns every large buffer to the system, which clears each of its pages anew when the next step asks again.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name, _ in MALLOC.values()):
        return
    library = ctypes.CDLL(None)
    for parameter, (_, value) in MALLOC.items():
        library.mallopt(parameter, value)


def use_share_of_cores(device: torch.device) -> None:
    """Let torch compute with this process's share of the cores, if it computes on them and nobody has chosen a number.

    `accelerate launch` and torchrun set OMP_NUM_THREADS to 1 where it is not set, so that all but one core of a process
    would be idle.
    """
    if device.type != "cpu" or not hasattr(os, "sched_getaffinity"):
        return
    launcher = _launcher()
    environment, words = (None, []) if launcher is None else launcher
    threads = threads_to_use(os.environ, environment, words, cores=len(os.sched_getaffinity(0)))
    if threads is not None:
        torch.set_num_threads(threads)


def threads_to_use(
    environment: Mapping[str, str], before: Mapping[str, str] | None, words: Sequence[str], *, cores: int
) -> int | None:
    """The threads of a process, None when it is to be left as it is, with the user's number or torch's own.

    Args:
        environment: of the process.
        before: that in which the user called the launcher, None where it is not known.
        words: the launcher's command line.
        cores: that are there for all processes of this machine.
    """
    processes = int(environment.get("LOCAL_WORLD_SIZE", 1))
    if any(name in environment for name in LAUNCHED):
        left = chosen_by_user(environment, before, words)
    else:
        left = processes == 1 or any(name in environment for name in THREADS)
    return None if left else max(1, cores // processes)


def chosen_by_user(environment: Mapping[str, str], before: Mapping[str, str] | None, words: Sequence[str]) -> bool:
    """Whether the number of threads of a launched process is the user's own; arguments as `threads_to_use`."""
    if before is None:  # both launchers set 1, so that any other number must have been asked for
        return environment.get(THREADS[0], "1") != "1"
    given = any(word.replace("-", "_").startswith("__num_cpu_threads_per_process") for word in words)
    return given or any(name in before for name in THREADS)


def _launcher() -> tuple[dict[str, str], list[str]] | None:
    """Environment and command line of the nearest process above that no launcher has started."""
    try:
        for process in psutil.Process().parents():
            environment = process.environ()
            if not any(name in environment for name in LAUNCHED):
                return environment, process.cmdline()
    except (psutil.Error, OSError):
        pass
    return None
