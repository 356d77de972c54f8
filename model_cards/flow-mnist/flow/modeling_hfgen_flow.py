"""Multi-scale coupling flows as diffusers models. This file needs diffusers and what comes with it alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

COUPLINGS = ("spline", "affine")
DEQUANTIZATIONS = ("uniform", "variational")
LEVELS = 256
# grey levels between which a spline's density is constant: every level at both ends, where most pixels of drawings are, and each of
# the quarters, which smoothed edges of drawings have more often than the levels beside them
KNOTS = (
    *(0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 65, 80, 96, 112, 128, 129, 144, 160, 176, 191, 192, 208, 224),
    *(232, 240, 244, 248, 250, 251, 252, 253, 254, 255, 256),
)
# the least slope of a spline: with it the inverse loses four digits of a float at most
LEAST_SLOPE = 1e-3
# of the logit, which would be infinite at black and white
MARGIN = 1e-5
# what brings logits of pixels to about the size of N(0, I)
LOGIT_SCALE = 0.2
MOST_LOG_SCALE = 2.0
# how often what is in no image counts as seen, so that nothing begins as impossible
UNSEEN = 0.1
LOG_2PI = math.log(2 * math.pi)
RANGES = {
    "in_channels": (1, 2**10),
    "sample_size": (1, 2**16),
    "scales": (0, 16),
    "halvings": (1, 2),
    "rounds": (0, 100),
    "channels": (1, 2**16),
    "layers": (0, 100),
    "top_features": (1, 2**16),
    "top_groups": (1, 2**10),
}
# squares of 2x2 pixels, as row and column of each: the first is the image of half the side
QUARTERS = ((0, 0), (1, 1), (0, 1), (1, 0))


class ConvContext(nn.Module):
    """Residual convolutions from the pixels that a coupling sees to what it does, zero at first; places have biases of their own."""

    def __init__(self, in_channels: int, out_channels: int, channels: int, layers: int, side: int):
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, channels, 5, padding=2)
        self.place = nn.Parameter(torch.zeros(channels, side, side))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)
            )
            for _ in range(layers)
        )
        self.conv_out = nn.Conv2d(channels, out_channels, 1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)

    @property
    def bias(self) -> nn.Parameter:
        """What it says at first, (out_channels,)."""
        return self.conv_out.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, out_channels, side, side) of (B, in_channels, side, side)."""
        h = self.conv_in(x) + self.place
        for block in self.blocks:
            h = h + block(F.relu(h))
        return self.conv_out(F.relu(h))


class DenseContext(nn.Module):
    """Two hidden layers from what a coupling sees of a vector to what it does, zero at first."""

    def __init__(self, in_features: int, out_features: int, features: int):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(in_features, features), nn.ReLU(), nn.Linear(features, features), nn.ReLU())
        self.out = nn.Linear(features, out_features)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    @property
    def bias(self) -> nn.Parameter:
        """What it says at first, (out_features,)."""
        return self.out.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, out_features) of (B, in_features)."""
        return self.out(self.body(x))


class NoContext(nn.Module):
    """What a coupling does that sees nothing, zero at first."""

    def __init__(self, out_features: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, out_features) of (B, 0)."""
        return self.bias.expand(len(x), -1)


class Spline(nn.Module):
    """Monotone maps of [0, 1] onto itself with as many straight pieces as a network gives logits: its density is a histogram.

    y(u) = sum of p_j below the piece k that u lies in, and p_k (u - u_k) / w_k. As knots lie at grey levels, such a map turns
    uniformly dequantised values of any distribution over the pieces into uniform ones.

    Source: Müller et al. 2019, section 4.1 (piecewise-linear couplings), here with fixed knots.
    """

    def __init__(self, knots: Sequence[int]):
        super().__init__()
        edges = torch.tensor(knots, dtype=torch.float64) / LEVELS
        self.register_buffer("edges", edges, persistent=False)
        self.outputs = len(knots) - 1

    def _pieces(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        widths = self.edges.diff().to(logits.dtype)
        shares = (1 - LEAST_SLOPE) * logits.softmax(-1) + LEAST_SLOPE * widths
        upper = shares.cumsum(-1)
        return shares, upper, widths

    def forward(self, u: torch.Tensor, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """y and log y'(u), each as u, (...), by logits (..., pieces)."""
        shares, upper, widths = self._pieces(logits)
        edges = self.edges.to(u.dtype)
        piece = torch.bucketize(u.detach().contiguous(), edges[1:-1], right=True)[..., None]
        share, end = (values.gather(-1, piece)[..., 0] for values in (shares, upper))
        piece = piece[..., 0]
        place = (u - edges[piece]) / widths[piece]
        return (end - share * (1 - place)).clamp(0, 1), share.log() - widths[piece].log()

    def inverse(self, y: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """u of y, (...)."""
        shares, upper, widths = self._pieces(logits)
        piece = (y[..., None] >= upper[..., :-1]).sum(-1, keepdim=True)
        share, end = (values.gather(-1, piece)[..., 0] for values in (shares, upper))
        piece = piece[..., 0]
        place = (1 - (end - y) / share).clamp(0, 1)
        return (self.edges.to(y.dtype)[piece] + place * widths[piece]).clamp(0, 1)


class Affine(nn.Module):
    """y = exp(s) x + t, with s within [-2, 2]. Source: Dinh et al. 2017, equation 8."""

    outputs = 2

    def forward(self, x: torch.Tensor, outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """y and log y'(x), each as x, (...), by outputs (..., 2)."""
        log_scale = MOST_LOG_SCALE * torch.tanh(outputs[..., 0] / MOST_LOG_SCALE)
        return x * log_scale.exp() + outputs[..., 1], log_scale

    def inverse(self, y: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """x of y, (...)."""
        log_scale = MOST_LOG_SCALE * torch.tanh(outputs[..., 0] / MOST_LOG_SCALE)
        return (y - outputs[..., 1]) * (-log_scale).exp()


class Coupling(nn.Module):
    """Changes some channels of (B, C, ...) by what a network says of others, each value by a monotone map of its own."""

    def __init__(self, changed: Sequence[int], seen: Sequence[int], context: nn.Module, transform: Spline | Affine):
        super().__init__()
        self.context, self.transform = context, transform
        self.register_buffer("changed", torch.tensor(changed, dtype=torch.long), persistent=False)
        self.register_buffer("seen", torch.tensor(seen, dtype=torch.long), persistent=False)

    def _outputs(self, x: torch.Tensor) -> torch.Tensor:
        outputs = self.context(x[:, self.seen]).to(x.dtype)
        return outputs.unflatten(1, (len(self.changed), self.transform.outputs)).movedim(2, -1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """y as x, and log |det dy/dx|, (B,)."""
        part, log_slope = self.transform(x[:, self.changed], self._outputs(x))
        return x.index_copy(1, self.changed, part), log_slope.flatten(1).sum(1)

    def inverse(self, y: torch.Tensor) -> torch.Tensor:
        """x of y."""
        return y.index_copy(1, self.changed, self.transform.inverse(y[:, self.changed], self._outputs(y)))


class FlowModel(ModelMixin, ConfigMixin):
    """p(x) by an invertible map of dequantised pixels to independent numbers, in scales of half the side each.

    Each scale parts the image into the four images of half the side that lie in its squares of 2x2 pixels, or each of these once
    more into the 16 of a quarter, changes them by couplings, lets all but the first out as latents and hands that to the next scale
    (Dinh et al. 2017, section 3.6). What is left in the end is a vector, whose couplings are dense.

    "spline": pixels are scaled to [0, 1] and so is everything after them. Each image is changed once, by what those before it
    show: the finest first, so that in the other direction, of sampling, a small image grows. The latents are uniform.

    "affine": the logits of pixels, first shifted and scaled each for itself, go through `rounds` of four couplings by halves
    (RealNVP). The latents are standard normal.

    Args:
        in_channels, sample_size: the images are (in_channels, sample_size, sample_size).
        coupling: "spline" or "affine".
        scales: how many there are.
        halvings: of the side in each scale, 1 or of splines 2; the side has to allow `scales` times as many.
        rounds: of affine couplings in each scale; a spline is applied once.
        channels, layers: width and residual blocks of the couplings' networks.
        top_features: width of the dense ones.
        top_groups: parts of the vector that splines change one after the other.
        knots: grey levels between which a spline is straight, increasing from 0 to 256.
        dequantization: what is added to the grey levels: "uniform" noise, or noise of a learned q(n|x), the logistic function of
            a Gaussian of each pixel ("variational"; Ho et al. 2019, equation 12).

    Raises `ValueError` for values out of these ranges.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 1,
        sample_size: int = 28,
        coupling: str = "spline",
        scales: int = 2,
        halvings: int = 1,
        rounds: int = 1,
        channels: int = 48,
        layers: int = 2,
        top_features: int = 128,
        top_groups: int = 7,
        knots: tuple[int, ...] = KNOTS,
        dequantization: str = "uniform",
    ):
        super().__init__()
        _check(self.config)
        self.spline = coupling == "spline"
        sides = [sample_size // 2 ** (halvings * (i + 1)) for i in range(scales)]
        self.stages = nn.ModuleList(nn.ModuleList(self._couplings(side)) for side in sides)
        self.top = nn.ModuleList(self._top_couplings(sample_size // 2 ** (halvings * scales)))
        shape = (in_channels, sample_size, sample_size)
        self.elementwise = None if self.spline else nn.Parameter(torch.zeros(2, *shape))
        self.noise = None
        if dequantization == "variational":
            patch = 1 + (sample_size % 2 == 0)
            seen = in_channels * patch**2
            self.noise = ConvContext(seen, 2 * seen, channels, 1, sample_size // patch)
        self.shape = shape

    def _transform(self) -> Spline | Affine:
        return Spline(self.config.knots) if self.spline else Affine()

    def _couplings(self, side: int) -> Iterator[Coupling]:
        c = self.config
        order = [((last,), tuple(range(last))) for last in reversed(range(1, 4**c.halvings))]
        if not self.spline:
            halves = ((0, 1), (2, 3)), ((0, 2), (1, 3))
            order = [pair for a, b in halves for pair in ((b, a), (a, b))] * c.rounds
        for changed, seen in order:
            transform = self._transform()
            channels = [
                [group * c.in_channels + i for group in groups for i in range(c.in_channels)]
                for groups in (changed, seen)
            ]
            outputs = len(channels[0]) * transform.outputs
            context = ConvContext(len(channels[1]), outputs, c.channels, c.layers, side)
            yield Coupling(*channels, context, transform)

    def _top_couplings(self, side: int) -> Iterator[Coupling]:
        """Of the vector: places of a group lie far from each other in the small image."""
        c = self.config
        count = c.top_groups if self.spline else 2
        group = [
            (2 * row + column if self.spline else row + column) % count for row in range(side) for column in range(side)
        ]
        group = group * c.in_channels
        order = [(g, set(range(g))) for g in reversed(range(count))]
        if not self.spline:
            order = [(g, {1 - g}) for g in (0, 1)] * c.rounds
        for chosen, told in order:
            changed = [i for i, g in enumerate(group) if g == chosen]
            seen = [i for i, g in enumerate(group) if g in told]
            if changed and (seen or self.spline):
                transform = self._transform()
                outputs = len(changed) * transform.outputs
                context = DenseContext(len(seen), outputs, c.top_features) if seen else NoContext(outputs)
                yield Coupling(changed, seen, context, transform)

    @torch.no_grad()
    def start_from(self, counts: torch.Tensor) -> None:
        """Let splines begin with histograms of grey levels, by counts (256, C, H, W), in place of pieces that are equally probable.

        In the vector each place has its own, elsewhere all have that of the whole image.
        """
        if not self.spline:
            return
        overall = self._log_shares(counts.mean((1, 2, 3))[:, None])
        for coupling in (coupling for couplings in self.stages for coupling in couplings):
            coupling.context.bias.copy_(overall.repeat(len(coupling.changed)))
        for _ in self.stages:
            counts = part(counts, self.config.halvings)[:, : self.shape[0]]
        for coupling in self.top:
            coupling.context.bias.copy_(self._log_shares(counts.flatten(1)[:, coupling.changed.cpu()]))

    def _log_shares(self, counts: torch.Tensor) -> torch.Tensor:
        """Of the pieces, for each place, (places * pieces,), by counts (256, places)."""
        pieces = torch.stack([counts[a:b].sum(0) for a, b in pairwise(self.config.knots)], dim=1) + UNSEEN
        return (pieces / pieces.sum(1, keepdim=True)).log().flatten()

    def forward(self, sample: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """log p(x + n) - log q(n|x) in nats, (B,): its mean over n is a bound on log p(x) of 8-bit pixels.

        Args:
            sample: images (B, C, H, W), value / 127.5 - 1.
            noise: as the images, uniform on [0, 1), or standard normal where the dequantisation is variational.
        """
        u, log_q = self.dequantize(sample, noise)
        return self.log_prob(u) - log_q

    def dequantize(self, sample: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(value + n) / 256, (B, C, H, W) in [0, 1], and log q(n|x) of the n on [0, 1), (B,). Arguments as `forward`."""
        values = ((sample + 1) * 127.5).round()
        log_q = torch.zeros(len(sample), dtype=sample.dtype, device=sample.device)
        if self.noise is not None:
            patch = 1 + (self.config.sample_size % 2 == 0)
            told = F.pixel_shuffle(self.noise(F.pixel_unshuffle(sample, patch)), patch).to(sample.dtype)
            mean, log_scale = told.unflatten(1, (-1, 2)).unbind(2)
            logit = mean + log_scale.exp() * noise
            inside = F.logsigmoid(logit) + F.logsigmoid(-logit)
            log_q = (-0.5 * (noise.square() + LOG_2PI) - log_scale - inside).flatten(1).sum(1)
            noise = logit.sigmoid()
        return ((values + noise) / LEVELS).clamp(0, 1), log_q

    def log_prob(self, u: torch.Tensor) -> torch.Tensor:
        """The log-density of values on [0, 1], (B, C, H, W), with grey levels as the unit: log p in nats, (B,)."""
        latents, log_det = self.encode(u)
        if not self.spline:
            log_det = log_det - 0.5 * (latents.square() + LOG_2PI).flatten(1).sum(1)
        return log_det - math.prod(self.shape) * math.log(LEVELS)

    def encode(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The latents of values on [0, 1], (B, C, H, W), at the pixels' places, and log |det| of the map, (B,)."""
        x, log_det = self._bend(u)
        kept = []
        for couplings in self.stages:
            x = part(x, self.config.halvings)
            for coupling in couplings:
                x, change = coupling(x)
                log_det = log_det + change
            x, rest = x.tensor_split([self.shape[0]], dim=1)
            kept.append(rest)
        top, small = x.flatten(1), x.shape
        for coupling in self.top:
            top, change = coupling(top)
            log_det = log_det + change
        x = top.reshape(small)
        for rest in reversed(kept):
            x = join(torch.cat([x, rest], dim=1), self.config.halvings)
        return x, log_det

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """The values on [0, 1] whose latents these are, (B, C, H, W)."""
        x, kept = latents, []
        for _ in self.stages:
            x, rest = part(x, self.config.halvings).tensor_split([self.shape[0]], dim=1)
            kept.append(rest)
        top, small = x.flatten(1), x.shape
        for coupling in reversed(self.top):
            top = coupling.inverse(top)
        x = top.reshape(small)
        for couplings, rest in zip(reversed(self.stages), reversed(kept), strict=True):
            x = torch.cat([x, rest], dim=1)
            for coupling in reversed(couplings):
                x = coupling.inverse(x)
            x = join(x, self.config.halvings)
        return self._unbend(x)

    def latents_of(self, normal: torch.Tensor) -> torch.Tensor:
        """Latents that are distributed as the model's where `normal` is standard normal."""
        return torch.special.ndtr(normal) if self.spline else normal

    def normal_of(self, latents: torch.Tensor) -> torch.Tensor:
        """Standard normal numbers of which `latents_of` makes these; finite also where a latent is 0 or 1."""
        if not self.spline:
            return latents
        tiny = torch.finfo(latents.dtype).eps / 4
        return torch.special.ndtri(latents.clamp(tiny, 1 - 2 * tiny))

    def _bend(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the couplings take, and log |det|, (B,)."""
        if self.elementwise is None:
            return u, u.new_zeros(len(u))
        inside = MARGIN + (1 - 2 * MARGIN) * u
        shift, log_scale = self.elementwise.to(u.dtype)
        x = LOGIT_SCALE * (inside.logit() * log_scale.exp() + shift)
        slope = log_scale - inside.log() - (-inside).log1p()
        constant = math.log(LOGIT_SCALE * (1 - 2 * MARGIN)) * math.prod(self.shape)
        return x, slope.flatten(1).sum(1) + constant

    def _unbend(self, x: torch.Tensor) -> torch.Tensor:
        if self.elementwise is None:
            return x
        shift, log_scale = self.elementwise.to(x.dtype)
        inside = ((x / LOGIT_SCALE - shift) * (-log_scale).exp()).sigmoid()
        return ((inside - MARGIN) / (1 - 2 * MARGIN)).clamp(0, 1)


def part(x: torch.Tensor, halvings: int) -> torch.Tensor:
    """Images (B, C, H, W) as the four images of half the side, one after the other, (B, 4 C, H / 2, W / 2), or each of them again so."""
    quarters = [x[..., row::2, column::2] for row, column in QUARTERS]
    return torch.cat(quarters if halvings == 1 else [part(quarter, halvings - 1) for quarter in quarters], dim=1)


def join(x: torch.Tensor, halvings: int) -> torch.Tensor:
    """What `part` has parted."""
    quarters = x.chunk(4, dim=1)
    if halvings > 1:
        quarters = tuple(join(quarter, halvings - 1) for quarter in quarters)
    rows = [torch.stack([quarters[a], quarters[b]], dim=-1).flatten(-2) for a, b in ((0, 2), (3, 1))]
    return torch.stack(rows, dim=-2).flatten(-3, -2)


def _check(config) -> None:
    for name, known in (("coupling", COUPLINGS), ("dequantization", DEQUANTIZATIONS)):
        if getattr(config, name) not in known:
            raise ValueError(f"{name}={getattr(config, name)!r}: choose one of {', '.join(known)}")
    for name, (least, most) in RANGES.items():
        value = getattr(config, name)
        if not _is_whole(value) or not least <= value <= most:
            raise ValueError(f"{name}={value!r}: a whole number from {least} to {most}")
    halved = config.scales * config.halvings
    if config.sample_size % 2**halved:
        raise ValueError(
            f"sample_size={config.sample_size} cannot be halved {halved} times (scales={config.scales} times halvings={config.halvings}): "
            "lower them"
        )
    if config.coupling == "affine" and config.halvings > 1:
        raise ValueError(f"halvings={config.halvings}: affine couplings are of four images, use 1")
    knots = config.knots
    increasing = isinstance(knots, (list, tuple)) and all(map(_is_whole, knots)) and list(knots) == sorted(set(knots))
    if not increasing or [*knots[:1], *knots[-1:]] != [0, LEVELS]:
        raise ValueError(f"knots={knots!r}: whole numbers that increase from 0 to {LEVELS}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
