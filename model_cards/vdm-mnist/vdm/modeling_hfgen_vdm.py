"""Variational diffusion models (Kingma et al. 2021) as diffusers models. This file needs diffusers and what comes with it alone."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin, UNet2DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import nn

SCHEDULES = ("fixed", "scalar", "network")
PREDICTIONS = ("epsilon", "v_prediction")
# the ends that noise levels are counted from, learned or not, so that the network's input means the same in every model
FIRST_GAMMA, GAMMA_RANGE = -13.3, 18.3
TIMES = 1000.0
CHECKED_TIMES = 1001
# how steep and how small the bends of a network start: nearly a straight line, with bends of all places to grow
STEEPNESS, BENDS = 10.0, 0.01
FINE_GROUPS = 4
# of the darkest and the brightest value the bin's centre, and a deviation that is as good as none known
LAST_CENTRE, MOST_LOG_DEVIATION = 255 / 256, 2.0


class NoiseSchedule(ModelMixin, ConfigMixin):
    """gamma(t) = -log SNR(t) over t in [0, 1], increasing, computed in the precision of t and in float32 at least.

    gamma(t) = gamma(0) + (gamma(1) - gamma(0)) share(t) with share(0) = 0 and share(1) = 1. In continuous time the bound depends
    on the two ends alone; the shape between them sets the variance of its estimate.

    Args:
        kind: "fixed", a straight line between ends that stay; "scalar", b + |w| t; "network", a monotone network
            l1 t + l3 sigmoid(l2 (2t - 1)) of non-negative weights, whose ends are parameters of their own.
        gamma_min, gamma_max: gamma(0) and gamma(1) to start from. What is learned of the ends is how far they move from there, so
            that weight decay draws them nowhere else.
        features: hidden units of the network.

    Raises `ValueError` for another kind, for ends that are crossed or not finite, and for no features.

    Source: Kingma et al. 2021, section 3.2 and appendix H.
    """

    @register_to_config
    def __init__(
        self, kind: str = "network", gamma_min: float = FIRST_GAMMA, gamma_max: float = 5.0, features: int = 1024
    ):
        super().__init__()
        if kind not in SCHEDULES:
            raise ValueError(f"gamma={kind!r}: choose one of {', '.join(SCHEDULES)}")
        if not -math.inf < gamma_min < gamma_max < math.inf:
            raise ValueError(
                f"gamma_min={gamma_min:g} and gamma_max={gamma_max:g}: gamma increases from the first to the second, swap them"
            )
        if features < 1:
            raise ValueError(f"features={features}: at least 1")
        if kind == "fixed":
            return
        # of the scalar b and w, of the network the two ends
        self.shift = nn.Parameter(torch.zeros(2))
        if kind == "network":
            steepness = STEEPNESS * torch.randn(features)
            self.l1 = nn.Parameter(torch.ones(1))
            self.l2 = nn.Parameter(steepness)
            self.l2_bias = nn.Parameter(steepness.abs() * (2 * torch.rand(features) - 1))
            self.l3 = nn.Parameter(BENDS * torch.randn(features))

    def ends(self, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
        """gamma(0) and gamma(1), scalars."""
        config = self.config
        if config.kind == "fixed":
            low, high = (torch.tensor(end, dtype=dtype) for end in (config.gamma_min, config.gamma_max))
            return low, high
        shift = self.shift.to(dtype)
        low = config.gamma_min + shift[0]
        if config.kind == "scalar":
            return low, low + (config.gamma_max - config.gamma_min + shift[1]).abs()
        return low, config.gamma_max + shift[1]

    def progress(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """share(t) and its derivative, each as t, (B,)."""
        t = t if t.dtype == torch.float64 else t.float()
        if self.config.kind != "network":
            return t, torch.ones_like(t)
        with torch.autocast(t.device.type, enabled=False):
            edges, _ = self._unscaled(t.new_tensor([0.0, 1.0]))
            value, slope = self._unscaled(t)
            height = edges[1] - edges[0]
            return (value - edges[0]) / height, slope / height

    def _unscaled(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        l1, l2, l3 = (part.to(t.dtype).abs() for part in (self.l1, self.l2, self.l3))
        bend = torch.sigmoid((2 * t[:, None] - 1) * l2 + self.l2_bias.to(t.dtype))
        value = l1 * t + ((2 * bend - 1) * l3).mean(1)
        return value, l1 + (4 * bend * (1 - bend) * l2 * l3).mean(1)

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        """gamma(t), (B,), of t (B,) in [0, 1]."""
        share, _ = self.progress(t)
        low, high = (end.to(share) for end in self.ends())
        return low + (high - low) * share

    def rate(self, t: torch.Tensor) -> torch.Tensor:
        """gamma'(t), (B,)."""
        _, slope = self.progress(t)
        low, high = (end.to(slope) for end in self.ends())
        return (high - low) * slope

    @torch.no_grad()
    def check(self) -> None:
        """Raise `ValueError` for a schedule that is not finite, whose ends are crossed or that does not increase between them."""
        t = torch.linspace(0, 1, CHECKED_TIMES, device=self.shift.device if self.config.kind != "fixed" else None)
        gamma = self(t)
        if not gamma.isfinite().all():
            raise ValueError("gamma(t) is not finite: the file is damaged, or the training was; train it again")
        if gamma[0] >= gamma[-1]:
            raise ValueError(f"gamma(0) = {gamma[0]:.3g} and gamma(1) = {gamma[-1]:.3g} are crossed: train it again")
        if (gamma.diff() < 0).any():
            raise ValueError("gamma(t) does not increase: the file is damaged; fetch it or train it again")


class VDMModel(ModelMixin, ConfigMixin):
    """A noise schedule and the network that predicts by gamma what noise an image holds.

    Images are f = (value - 127.5) / 128, bin centres of 8-bit values, and z = alpha f + sigma eps. The network is a `UNet2DModel`
    which sees z beside its Fourier features, and is told (gamma + 13.3) / 18.3. What it puts out is added to z for an epsilon.

    With `patch_size` 2 the UNet sees squares of 2x2 pixels as channels, at half the side, and what it finds goes back into a thin
    path at full resolution: most bits lie in the last noise levels, where each pixel counts, and a CPU has no time for a wide
    network there.

    Args:
        in_channels, sample_size: the images are (in_channels, sample_size, sample_size).
        gamma, gamma_min, gamma_max, gamma_features: of the `NoiseSchedule`.
        prediction_type: "epsilon", the noise, or "v_prediction", alpha eps - sigma f.
        fourier_features: n of sin and cos(2 pi 2^n z). 5 and 6 tell neighbouring values apart; 7 has the period of a bin and tells how
            far z lies from a centre.
        patch_size: pixels a side that become channels.
        mixture: Gaussians of a pixel's distribution, for "epsilon"; 0: z is added to what the network puts out, as published.
        fine_channels, fine_layers: width and residual blocks of the path at full resolution, for a `patch_size` above 1.
        num_classes: that the network is told; label `num_classes` stands for none of them. None: it is told nothing.
        unet_config: arguments of `UNet2DModel`, but for its sizes and channels in and out.

    Raises `ValueError` for values out of these ranges.

    Source: Kingma et al. 2021, section 3 and appendix B.
    """

    # narrow ends would be other ends
    _keep_in_fp32_modules: ClassVar[list[str]] = ["schedule", "head"]

    @register_to_config
    def __init__(
        self,
        in_channels: int = 1,
        sample_size: int = 28,
        gamma: str = "network",
        gamma_min: float = FIRST_GAMMA,
        gamma_max: float = 5.0,
        gamma_features: int = 1024,
        prediction_type: str = "epsilon",
        fourier_features: tuple[int, ...] = (5, 6, 7),
        patch_size: int = 1,
        fine_channels: int = 16,
        fine_layers: int = 2,
        mixture: int = 0,
        num_classes: int | None = None,
        unet_config: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        _check(prediction_type, patch_size, sample_size, mixture)
        self.schedule = NoiseSchedule(gamma, gamma_min, gamma_max, gamma_features)
        self.head = MixtureHead(in_channels, mixture) if mixture else None
        seen = in_channels * (1 + 2 * len(fourier_features))
        wanted = self.head.channels if self.head is not None else in_channels
        put_out = wanted if patch_size == 1 else fine_channels * patch_size**2
        self.unet = UNet2DModel(
            **{
                **(unet_config or {}),
                "sample_size": sample_size // patch_size,
                "in_channels": seen * patch_size**2,
                "out_channels": put_out,
                "num_class_embeds": None if num_classes is None else num_classes + 1,
            }
        )
        self.fine = None
        if patch_size > 1:
            embedding = self.unet.time_embedding.linear_2.out_features
            self.fine = FinePath(seen, fine_channels, wanted, fine_layers, embedding)
        last = self.unet.conv_out if self.fine is None else self.fine.conv_out
        # the first prediction is z, which is nearly the noise where there is much
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(
        self,
        sample: torch.Tensor,
        gamma: torch.Tensor,
        class_labels: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[torch.Tensor]:
        """The prediction of `prediction_type`, float32 (B, C, H, W).

        Args:
            sample: z, (B, C, H, W), not narrower than float32: features of narrow numbers are noise.
            gamma: of each row, (B,).
            class_labels: int64 (B,), of a model that is told classes; by default none of them.
        """
        z, config = sample.float(), self.config
        if config.num_classes is not None and class_labels is None:
            class_labels = torch.full((len(z),), config.num_classes, device=z.device)
        seen, time = self._features(z), self.noise_level(gamma.float())
        unet_input = seen if self.fine is None else F.pixel_unshuffle(seen, config.patch_size)
        output = self.unet(unet_input.to(self.unet.dtype), time, class_labels=class_labels).sample
        if self.fine is not None:
            embedding = self.unet.time_embedding(self.unet.time_proj(time).to(self.unet.dtype))
            output = self.fine(seen.to(self.unet.dtype), F.pixel_shuffle(output, config.patch_size), embedding)
        output = output.float()
        if self.head is not None:
            output = self.head(z, gamma.float(), output)
        elif config.prediction_type == "epsilon":
            output = z + output
        return UNet2DOutput(sample=output) if return_dict else (output,)

    @staticmethod
    def noise_level(gamma: torch.Tensor) -> torch.Tensor:
        """What the sinusoidal embedding takes: 0 at gamma = -13.3 and 1000 at 5, learned or not."""
        return TIMES * (gamma - FIRST_GAMMA) / GAMMA_RANGE

    def _features(self, z: torch.Tensor) -> torch.Tensor:
        """z beside its Fourier features, (B, C (1 + 2 n), H, W). Source: Kingma et al. 2021, appendix C."""
        angles = [2 * math.pi * 2**n * z for n in self.config.fourier_features]
        return torch.cat([z, *(f(angle) for angle in angles for f in (torch.sin, torch.cos))], dim=1)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> VDMModel:
        """Load a folder or repository; arguments as in `ModelMixin.from_pretrained`. `ValueError` for a damaged schedule."""
        model = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        model.schedule.check()
        return model


class MixtureHead(nn.Module):
    """The noise that z holds by Bayes' rule, of pixels whose f has a distribution that a network says.

    p(f) = pi_0 delta(f - f_0) + pi_255 delta(f - f_255) + sum_k pi_k N(f; mu_k, s_k^2), two atoms at the darkest and the brightest value
    and K Gaussians. With z = alpha f + sigma eps and v_k = (alpha s_k)^2 + sigma^2 each part has the evidence N(z; alpha mu_k, v_k)
    and E[eps | z, k] = sigma (z - alpha mu_k) / v_k. What noise is left for the network to tell itself is added.

    A network need then not learn how far to trust a pixel at each noise level, and begins with the loss of independent pixels.
    """

    def __init__(self, in_channels: int, gaussians: int):
        super().__init__()
        parts = gaussians + 2
        self.shape = (in_channels, parts)
        # of each pixel value: logits of all parts, means and log deviations of the Gaussians, and a rest
        self.channels = in_channels * (parts + 2 * gaussians + 1)
        centres = torch.linspace(-1, 1, gaussians + 2)[1:-1]
        self.logits = nn.Parameter(torch.zeros(parts))
        self.means = nn.Parameter(centres)
        self.log_deviations = nn.Parameter(torch.full((gaussians,), -1.0))

    def forward(self, z: torch.Tensor, gamma: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """eps_hat, float32 (B, C, H, W), from z, gamma (B,) and what the network puts out, (B, channels, H, W)."""
        channels, parts = self.shape
        gaussians = parts - 2
        output = output.unflatten(1, (channels, -1)).movedim(2, 0)
        logits, means, log_deviations, rest = output.split([parts, gaussians, gaussians, 1])
        side = (-1, 1, 1, 1, 1)
        ends = means.new_tensor([-LAST_CENTRE, LAST_CENTRE]).view(side).expand(2, *z.shape)
        means = torch.cat([ends, means + self.means.view(side)])
        deviations = (log_deviations + self.log_deviations.view(side)).clamp(max=MOST_LOG_DEVIATION)
        alpha, sigma = (torch.sigmoid(sign * gamma).sqrt().view(-1, 1, 1, 1) for sign in (-1, 1))
        spread = torch.cat([torch.zeros_like(ends), (2 * deviations).exp()])
        variance = alpha.square() * spread + sigma.square()
        distance = z - alpha * means
        evidence = logits + self.logits.view(side) - 0.5 * (variance.log() + distance.square() / variance)
        return (evidence.softmax(0) * (distance / variance)).sum(0) * sigma + rest[0]


class FinePath(nn.Module):
    """Residual convolutions at full resolution, which begin with what a UNet has found on patches."""

    def __init__(self, seen: int, channels: int, out_channels: int, layers: int, embedding: int):
        super().__init__()
        self.conv_in = nn.Conv2d(seen, channels, 3, padding=1)
        self.blocks = nn.ModuleList(FineBlock(channels, embedding) for _ in range(layers))
        self.norm = nn.GroupNorm(FINE_GROUPS, channels)
        self.conv_out = nn.Conv2d(channels, out_channels, 3, padding=1)

    def forward(self, seen: torch.Tensor, found: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) from features, what was found, (B, channels, H, W), and the embedded noise level, (B, E)."""
        h = self.conv_in(seen) + found
        for block in self.blocks:
            h = block(h, embedding)
        with torch.autocast(h.device.type, enabled=False):
            # what is put out tells values apart, which bf16 cannot
            return self.conv_out(F.silu(self.norm(h.float())).to(self.conv_out.weight.dtype))


class FineBlock(nn.Module):
    """Two convolutions around a shift and a scale by the noise level."""

    def __init__(self, channels: int, embedding: int):
        super().__init__()
        self.norm = nn.GroupNorm(FINE_GROUPS, channels)
        self.conv_1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * channels)
        self.conv_2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv_2.weight)

    def forward(self, h: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """As h, (B, channels, H, W)."""
        scale, shift = self.modulation(F.silu(embedding))[:, :, None, None].chunk(2, dim=1)
        residual = self.conv_1(F.silu(self.norm(h)))
        return h + self.conv_2(F.silu(residual * (1 + scale) + shift))


def _check(prediction_type: str, patch_size: int, sample_size: int | Sequence[int], mixture: int) -> None:
    if prediction_type not in PREDICTIONS:
        raise ValueError(f"prediction_type={prediction_type!r}: choose one of {', '.join(PREDICTIONS)}")
    if mixture < 0 or (mixture and prediction_type != "epsilon"):
        raise ValueError(
            f"mixture={mixture} with prediction_type={prediction_type!r}: 0 or more Gaussians, and with epsilon alone"
        )
    if not isinstance(sample_size, int):
        raise ValueError(f"sample_size={sample_size}: one number, the side of a square")
    if patch_size < 1 or sample_size % patch_size:
        raise ValueError(
            f"patch_size={patch_size} does not divide the side of {sample_size} pixels: use 1, or pad the images"
        )
