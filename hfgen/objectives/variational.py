"""Training losses of VAEs: bounds on log p(x) and their gradient estimators, in nats per image.

Each is called as `objective(model, x, latent_noise, kl_weight)` with images x (B, C, H, W) in [-1, 1] and standard normal
noise (L, B, latent_size), and returns terms of shape (B,): "loss", to be minimised, and for the log "reconstruction", the
mean of -log p(x|z) over the L samples, and "kl". `kl_weight`, for a warm-up, multiplies the KL term in the loss alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch

Terms = dict[str, torch.Tensor]


class PixelLikelihood(Protocol):
    """p(x|z) of a VAE."""

    def log_prob(self, x: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """log p(x|z) in nats, (L, B), of images (B, C, H, W) by the decoder's outputs (L, B, ...)."""


class LatentVariableModel(Protocol):
    """A VAE as the objectives call it."""

    def __call__(
        self, sample: torch.Tensor, /, *, latent_noise: torch.Tensor, reparameterize: bool = True
    ) -> tuple[torch.Tensor, ...]:
        """Mean and log variance of q(z|x), (B, latent_size), z (L, B, latent_size) and the decoder's outputs (L, B, ...)."""


@dataclass(frozen=True)
class SGVBB:
    """The bound with its KL in closed form: -KL(q(z|x) || p(z)) + 1/L sum_l log p(x|z_l).

    Source: Kingma & Welling 2014, equations 7 and 10.
    """

    likelihood: PixelLikelihood

    def __call__(
        self, model: LatentVariableModel, x: torch.Tensor, latent_noise: torch.Tensor, kl_weight: float = 1.0
    ) -> Terms:
        mean, logvar, _, outputs = model(x, latent_noise=latent_noise)
        reconstruction = -self.likelihood.log_prob(x, outputs).mean(0)
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(-1)
        return {"loss": reconstruction + kl_weight * kl, "reconstruction": reconstruction, "kl": kl}


@dataclass(frozen=True)
class SGVBA:
    """The bound all by Monte Carlo: 1/L sum_l [log p(x, z_l) - log q(z_l|x)].

    Source: Kingma & Welling 2014, equation 6.
    """

    likelihood: PixelLikelihood

    def __call__(
        self, model: LatentVariableModel, x: torch.Tensor, latent_noise: torch.Tensor, kl_weight: float = 1.0
    ) -> Terms:
        _, logvar, z, outputs = model(x, latent_noise=latent_noise)
        reconstruction = -self.likelihood.log_prob(x, outputs).mean(0)
        kl = log_ratio(logvar, z, latent_noise).mean(0)
        return {"loss": reconstruction + kl_weight * kl, "reconstruction": reconstruction, "kl": kl}


@dataclass(frozen=True)
class ImportanceWeighted:
    """The importance-weighted bound: log 1/k sum_l p(x, z_l) / q(z_l|x) with k = L; k = 1 is SGVB A.

    `kl_weight` must be 1: there is no KL term to weight. Source: Burda et al. 2016, equation 8.
    """

    likelihood: PixelLikelihood

    def __call__(
        self, model: LatentVariableModel, x: torch.Tensor, latent_noise: torch.Tensor, kl_weight: float = 1.0
    ) -> Terms:
        if kl_weight != 1.0:
            raise ValueError(f"kl_weight={kl_weight}: the importance-weighted bound has no KL term to weight")
        _, logvar, z, outputs = model(x, latent_noise=latent_noise)
        log_likelihood = self.likelihood.log_prob(x, outputs)
        ratio = log_ratio(logvar, z, latent_noise)
        loss = math.log(len(latent_noise)) - torch.logsumexp(log_likelihood - ratio, 0)
        return {
            "loss": loss,
            "reconstruction": -log_likelihood.detach().mean(0),
            "kl": ratio.detach().mean(0),
        }


@dataclass(frozen=True)
class ScoreFunction:
    """SGVB A's value with the score-function gradient of the encoder: (f(z) - b) grad log q(z|x), f = log p(x, z) - log q(z|x).

    With `baseline`, b is the mean of f over the other samples of the image or, for L = 1, over the other images of the
    batch: independent of z, so the gradient stays unbiased. The decoder's gradient is SGVB A's.

    Source: Paisley et al. 2012; Mnih & Gregor 2014, equations 5 to 8; the baseline: Mnih & Rezende 2016, equation 6.
    """

    likelihood: PixelLikelihood
    baseline: bool = True

    def __call__(
        self, model: LatentVariableModel, x: torch.Tensor, latent_noise: torch.Tensor, kl_weight: float = 1.0
    ) -> Terms:
        mean, logvar, z, outputs = model(x, latent_noise=latent_noise, reparameterize=False)
        log_likelihood = self.likelihood.log_prob(x, outputs)
        ratio = log_ratio(logvar, z, latent_noise).detach()
        f = log_likelihood.detach() - kl_weight * ratio
        log_q = -0.5 * ((z - mean).square() * (-logvar).exp() + logvar).sum(-1)
        # its value is taken off again, so that the loss reads as the bound; what it adds is a gradient of q's parameters
        score = ((f - self._baseline(f)) * log_q).mean(0)
        reconstruction, kl = -log_likelihood.mean(0), ratio.mean(0)
        loss = reconstruction + kl_weight * kl - (score - score.detach())
        return {"loss": loss, "reconstruction": reconstruction, "kl": kl}

    def _baseline(self, f: torch.Tensor) -> torch.Tensor | float:
        """The mean of the others along the samples (L > 1) or the batch."""
        along = 0 if len(f) > 1 else 1
        others = f.shape[along] - 1
        if not self.baseline or others == 0:
            return 0.0
        return (f.sum(along, keepdim=True) - f) / others


def log_ratio(logvar: torch.Tensor, z: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """log q(z|x) - log p(z) in nats, (L, B), at z = mean + exp(logvar / 2) * noise, all three with latent_size last."""
    return 0.5 * (z.square() - noise.square() - logvar).sum(-1)


def kl_weight(step: int, warmup_steps: int) -> float:
    """The weight of the KL term at optimizer step `step`, counted from 0: linear from 1 / warmup_steps to 1.

    Source: Bowman et al. 2016, section 3.1; Sonderby et al. 2016, section 2.3.
    """
    return 1.0 if warmup_steps == 0 else min(1.0, (step + 1) / warmup_steps)
