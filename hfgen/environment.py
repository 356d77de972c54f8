"""What results and trainings were made with."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

import torch

LIBRARIES = ("hfgen", "torch", "diffusers", "accelerate", "datasets")


def environment(device: torch.device) -> dict:
    """Versions and the kind of device, as JSON values; nothing that names the machine or its user."""
    return {"device": device_name(device), "python": platform.python_version()} | {
        name: version(name) for name in LIBRARIES
    }


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
