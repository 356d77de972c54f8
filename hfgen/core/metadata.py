"""What results and trainings were made with."""

from __future__ import annotations

import platform
from importlib.metadata import version

import torch

from hfgen.core.device import device_name

LIBRARIES = ("hfgen", "torch", "diffusers", "accelerate", "datasets")


def run_metadata(device: torch.device) -> dict:
    """Versions and the kind of device, as JSON values; nothing that names the machine or its user."""
    return {"device": device_name(device), "python": platform.python_version()} | {
        name: version(name) for name in LIBRARIES
    }
