"""Noise that the frames of a clip share in part."""

from __future__ import annotations

import torch


def shared_noise(shared: torch.Tensor, own: torch.Tensor, share: float) -> torch.Tensor:
    """eps_f = sqrt(share) shared + sqrt(1 - share) own_f: standard normal in each frame, with covariance `share` between frames.

    Args:
        shared: standard normal, (B, C, H, W), one for a clip.
        own: standard normal, (B, F, C, H, W), one for each frame.
        share: lambda, from 0, frames of their own, to 1, one noise for all.

    Source: Luo et al. 2023 (VideoFusion), where the parts are called base and residual noise; here with one lambda for all frames.
    """
    return share**0.5 * shared[:, None] + (1 - share) ** 0.5 * own
