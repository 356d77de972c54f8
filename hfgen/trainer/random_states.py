"""The states of the global random generators, which dropout and a family's own code may draw from."""

from __future__ import annotations

import math
import random

import numpy as np
import torch

Tensors = dict[str, torch.Tensor]


def random_states(device: torch.device) -> Tensors:
    """Those of torch (on the CPU, and on a GPU if the device is one), NumPy and Python, as tensors on the CPU."""
    _, keys, position, has_normal, normal = np.random.get_state(legacy=True)
    _, integers, python_normal = random.getstate()
    states = {
        "torch": torch.get_rng_state(),
        "numpy": torch.tensor([*keys.tolist(), position], dtype=torch.int64),
        "numpy_normal": torch.tensor(normal if has_normal else math.nan, dtype=torch.float64),
        "python": torch.tensor(integers, dtype=torch.int64),
        "python_normal": torch.tensor(math.nan if python_normal is None else python_normal, dtype=torch.float64),
    }
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_random_states(states: Tensors, device: torch.device) -> None:
    """Let the generators go on from what `random_states` gave; that of a GPU as far as there is one."""
    torch.set_rng_state(states["torch"])
    *keys, position = states["numpy"].tolist()
    normal = states["numpy_normal"].item()
    has_normal = not math.isnan(normal)
    np.random.set_state(
        ("MT19937", np.array(keys, np.uint32), position, int(has_normal), normal if has_normal else 0.0)
    )
    python_normal = states["python_normal"].item()
    random.setstate((3, tuple(states["python"].tolist()), None if math.isnan(python_normal) else python_normal))
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
