"""Black or white pixels from grey ones, as Bernoulli likelihoods need them."""

from __future__ import annotations

import torch


def binarize(
    kind: str | None, x: torch.Tensor, uniform: torch.Tensor, rows: torch.Tensor, key: tuple[int, ...]
) -> torch.Tensor:
    """Pixels -1 or 1, white with the probability that is the grey value on [0, 1]; None leaves them grey.

    Args:
        kind: "dynamic" draws by `uniform`, "static" by numbers that (key, row, pixel) fix for ever, or None.
        x: (B, C, H, W) in [-1, 1].
        uniform: (B, C * H * W) on [0, 1), for "dynamic".
        rows: int64 (B,), the images' numbers, for "static".

    Source: Salakhutdinov & Murray 2008, section 4 (static); Burda et al. 2016, section 5 (dynamic).
    """
    if kind is None:
        return x
    if kind == "static":
        uniform = fixed_uniform(rows.to(x.device), x[0].numel(), key)
    white = uniform.view_as(x) if uniform.is_contiguous() else uniform.unflatten(1, x.shape[1:])
    return (2 * white < x + 1).to(x.dtype).mul_(2).sub_(1)


def fixed_uniform(rows: torch.Tensor, count: int, key: tuple[int, ...]) -> torch.Tensor:
    """Numbers on [0, 1) for each row, (len(rows), count), the same on every device and in every batch.

    A hash in counter mode: the finalizer of MurmurHash3 over key, row and place. Source: Appleby 2016, fmix64.
    """
    places = torch.arange(count, device=rows.device)
    state = torch.zeros((), dtype=torch.int64, device=rows.device)
    for part in key:
        state = _mix(state + int(part) + 1)
    state = _mix(_mix(state + rows[:, None] + 1) + places + 1)
    return (state >> 40 & 0xFFFFFF).to(torch.float32) / 2**24


def _mix(x: torch.Tensor) -> torch.Tensor:
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        x = (x ^ (x >> 33 & 0x7FFFFFFF)) * (factor - 2**64)
    return x ^ (x >> 33 & 0x7FFFFFFF)
