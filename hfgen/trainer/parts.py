"""Tensors that lie in parts on several processes, as FSDP2 leaves a network's parameters: torch's `DTensor`."""

from __future__ import annotations

import torch
from torch.distributed.tensor import DTensor, distribute_tensor


def local_part(parameter: torch.nn.Parameter) -> torch.Tensor:
    """What this process has of a parameter, in the parameter's own memory; all of one that is not in parts."""
    own = parameter.detach()
    return own.to_local().requires_grad_(parameter.requires_grad) if isinstance(own, DTensor) else parameter


def joined(part: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The tensor of which `part` is what this process has, if `like` is one in parts, else `part`; no memory is copied."""
    if not isinstance(like, DTensor):
        return part
    return DTensor.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def fill(target: torch.Tensor, whole: torch.Tensor) -> None:
    """Copy a whole tensor, which every process has, into one of its shape; `ValueError` for one of another."""
    if whole.shape != target.shape:
        raise ValueError(f"shape {tuple(whole.shape)} instead of {tuple(target.shape)}")
    if isinstance(target, DTensor):
        device = target.to_local().device
        whole = distribute_tensor(whole.to(device), target.device_mesh, target.placements, src_data_rank=None)
    target.copy_(whole)
