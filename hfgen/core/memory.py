"""What memory there is, and whether work fits into it."""

from __future__ import annotations

import os

import psutil
import torch

from hfgen.core.errors import HfgenError, in_gib


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device; those of the machine unless it is a GPU."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def local_processes() -> int:
    """How many processes of this work share the machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def check_fits(size: float, what: str, way_out: str, device: torch.device | None = None) -> None:
    """Raise `HfgenError` before something is tried for which there is no memory.

    Args:
        size: bytes that it takes at least.
        what: in words, with the values that make it so large, such as "--num_images 1000000".
        way_out: such as "ask for fewer images".
        device: where it is to lie, by default in the machine's memory.
    """
    there = free_memory(device or torch.device("cpu"))
    if size > there:
        raise HfgenError(f"{what} takes at least {in_gib(size)} of memory, and {in_gib(there)} are free: {way_out}")
