"""How an autoencoder is trained."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hfgen.core.media import to_uint8
from hfgen.data.batch import Batch, RandomSpec
from hfgen.data.latents import moments
from hfgen.data.loading import Rows
from hfgen.families.autoencoder.likelihood import KEY, PixelLikelihood
from hfgen.families.autoencoder.loading import fold_shift
from hfgen.families.autoencoder.perceptual import PerceptualDistance
from hfgen.families.base import Terms
from hfgen.models.patch_discriminator import PatchDiscriminator
from hfgen.objectives.autoencoder import adaptive_weight, gaussian_kl, hinge_loss
from hfgen.pipelines.autoencoder import AutoencoderPipeline

AUTOENCODER, DISCRIMINATOR = "autoencoder", "discriminator"
# images that the scale of the latents is measured on
MEASURED, AT_ONCE = 4096, 256


class Networks(nn.Module):
    """The autoencoder with what is trained beside it, behind one call, as a wrapper for several processes needs it.

    Attributes:
        vae: an `AutoencoderKL`.
        likelihood: None where the error is an absolute one.
        discriminator: None where there is none.
    """

    def __init__(self, vae: Any, likelihood: PixelLikelihood | None, discriminator: PatchDiscriminator | None):
        super().__init__()
        self.vae, self.likelihood, self.discriminator = vae, likelihood, discriminator

    @property
    def config(self) -> Mapping[str, Any]:
        """The autoencoder's."""
        return self.vae.config

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.vae.device

    def forward(self, x: torch.Tensor, noise: torch.Tensor, turn: str, judged: bool) -> dict[str, torch.Tensor]:
        """What the turn's loss needs of images (B, C, H, W); `judged`: the discriminator counts.

        Of the autoencoder "decoded", its "mean" and "logvar", "reconstruction", of the discriminator the logits "made" and "real".
        """
        if turn == DISCRIMINATOR:
            with torch.no_grad():
                decoded = self._decode(self._encode(x), noise)
            return {"made": self._judge(decoded), "real": self._judge(x)}
        q = self._encode(x)
        decoded = self._decode(q, noise)
        made = {"made": self._judge(decoded)} if judged else {}
        return {
            "decoded": decoded,
            "mean": q.mean,
            "logvar": q.logvar,
            "reconstruction": self._error(x, decoded),
            **made,
        }

    def _encode(self, x: torch.Tensor) -> Any:
        return self.vae.encode(x).latent_dist

    def _decode(self, q: Any, noise: torch.Tensor) -> torch.Tensor:
        return self.vae.decode(q.mean + q.std * noise).sample

    def _judge(self, x: torch.Tensor) -> torch.Tensor:
        assert self.discriminator is not None
        return self.discriminator(x)

    def _error(self, x: torch.Tensor, decoded: torch.Tensor) -> torch.Tensor:
        """Per pixel value: -log p(x|z) in bits, or the absolute error on [-1, 1]; (B,)."""
        if self.likelihood is None:
            return (x - decoded).abs().flatten(1).mean(1)
        return self.likelihood.nats(x, decoded.float()) / (math.log(2) * x[0].numel())


@dataclass(frozen=True, kw_only=True)
class AutoencoderTask:
    """Reconstruction, KL, perceptual and adversarial terms, each per pixel value; reconstructions of held-out images as previews.

    Attributes:
        train: images that the scale of the latents is measured on.
        latent_shape: (c, h, w).
        shown: held-out images, uint8 (64, C, H, W).
        perceptual: None: no such term.
        discriminator_start: step from which the discriminator learns and counts; None: there is none.
    """

    train: Rows
    latent_shape: tuple[int, ...]
    shown: torch.Tensor
    kl_weight: float
    perceptual_weight: float
    perceptual: PerceptualDistance | None
    adversarial_weight: float
    discriminator_start: int | None
    ylabel: str
    states: Mapping[str, Any]

    @property
    def terms(self) -> tuple[str, ...]:
        """The loss, of a discriminator's turn too, and its parts."""
        perceptual = () if self.perceptual is None else ("perceptual",)
        judged = () if self.discriminator_start is None else ("adversarial", DISCRIMINATOR)
        return ("loss", "reconstruction", "kl", *perceptual, *judged)

    @property
    def optimizers(self) -> tuple[str, ...]:
        """That of the autoencoder, and that of the discriminator, if there is one."""
        return (AUTOENCODER,) if self.discriminator_start is None else (AUTOENCODER, DISCRIMINATOR)

    @property
    def random(self) -> RandomSpec:
        """The noise of z."""
        return RandomSpec(normal={"noise": self.latent_shape})

    def to(self, device: torch.device) -> None:
        """The classifier of the perceptual term."""
        if self.perceptual is not None:
            self.perceptual.to(device)

    def parameters(self, module: nn.Module, optimizer: str) -> Sequence[nn.Parameter]:
        """Those of the discriminator, or all others."""
        of_discriminator = optimizer == DISCRIMINATOR
        named = module.named_parameters()
        return [p for name, p in named if name.startswith(f"{DISCRIMINATOR}.") == of_discriminator]

    def loss(self, model: Callable, batch: Batch, optimizer: str) -> Terms:
        """The terms of a turn; before its start the discriminator's is 0."""
        started = self.discriminator_start is not None and batch.step >= self.discriminator_start
        found = model(batch.data, batch.random["noise"], optimizer, started)
        if optimizer == DISCRIMINATOR:
            loss = hinge_loss(found["real"], found["made"]) * float(started)
            return {"loss": loss, DISCRIMINATOR: loss}
        terms = self._terms(batch.data, found)
        if started:
            terms["adversarial"] = -found["made"].flatten(1).mean(1)
            weight = adaptive_weight(terms["loss"].mean(), terms["adversarial"].mean(), self.last_layer(model))
            terms["loss"] = terms["loss"] + self.adversarial_weight * weight * terms["adversarial"]
        return terms

    @staticmethod
    def last_layer(model: Any) -> nn.Parameter:
        """The decoder's last weights, by which the adaptive weight is found."""
        networks = getattr(model, "module", model)
        return networks.vae.decoder.conv_out.weight

    def held_out_loss(self, model: Callable, batch: Batch) -> Terms:
        """The terms without the discriminator's."""
        return self._terms(batch.data, model(batch.data, batch.random["noise"], AUTOENCODER, False))

    def _terms(self, x: torch.Tensor, found: Mapping[str, torch.Tensor]) -> Terms:
        bits = math.log(2) * x[0].numel()
        terms = {
            "reconstruction": found["reconstruction"],
            "kl": gaussian_kl(found["mean"].float(), found["logvar"].float()) / bits,
        }
        loss = terms["reconstruction"] + self.kl_weight * terms["kl"]
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual(x, found["decoded"].float())
            loss = loss + self.perceptual_weight * terms["perceptual"]
        return {"loss": loss, **terms}

    def end_step(self) -> None:
        """Nothing to do."""

    @torch.no_grad()
    def pipeline(self, module: Any) -> AutoencoderPipeline:
        """The autoencoder, whose latents of the training images have mean 0, by channel, and variance 1, with its likelihood."""
        vae = copy.deepcopy(module.vae).eval()
        shift, deviation = self._measured(vae)
        fold_shift(vae, shift)
        vae.register_to_config(scaling_factor=1 / deviation, shift_factor=0.0)
        if module.likelihood is not None:
            vae.register_to_config(**{KEY: module.likelihood.to_config()})
        elif KEY in vae.config:  # of the training before, by another loss
            vae.register_to_config(**{KEY: None})
        return AutoencoderPipeline(vae)

    def _measured(self, vae: Any) -> tuple[torch.Tensor, float]:
        """Of z of training images the mean of each channel, (c,), and the standard deviation about it, over all."""
        rows = torch.arange(min(MEASURED, len(self.train))).split(AT_ONCE)
        found = [moments(vae, pixels).double() for pixels in self.train.batches(rows)]
        mean, spread = torch.cat(found).chunk(2, dim=1)
        shift = mean.mean((0, 2, 3))
        variance = (mean - shift[:, None, None]).square() + spread.square()
        return shift.float(), variance.mean().sqrt().item()

    @torch.no_grad()
    def preview(self, module: Any) -> torch.Tensor:
        """Held-out images, each above its reconstruction by the mean of z, in rows of 8."""
        mean = torch.cat([moments(module.vae, part).chunk(2, dim=1)[0] for part in self.shown.split(AT_ONCE)])
        made = to_uint8(module.vae.decode(mean).sample)
        rows = zip(self.shown.split(8), made.split(8), strict=True)
        return torch.cat([part for pair in rows for part in pair]).cpu()
