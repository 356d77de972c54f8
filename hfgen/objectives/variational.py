"""Training losses of VAEs: bounds on log p(x) and their gradient estimators, in nats per image.

Each is called as `objective(model, x, latent_noise, kl_weight, free_bits)` with images x (B, C, H, W) in [-1, 1] and standard
normal noise (L, B, sum of the layers' sizes), and returns terms of shape (B,): "loss", to be minimised, and for the log
"reconstruction", the mean of -log p(x|z_1) over the L samples, "kl", and of several layers "kl_1" to "kl_T", which sum to it.
`kl_weight`, for a warm-up, multiplies the KL term in the loss alone. `free_bits` is what each layer's KL counts for at least
there, in nats, image by image, so that a loss is a function of its row: Kingma et al. 2016, equation 15, take the batch's mean.

A VAE has one layer of latents. A hierarchical one has a Markov chain, q(z_1|x) prod_t q(z_t|z_{t-1}) against
p(z_T) prod_t p(z_{t-1}|z_t), whose KL is E_q sum_t [log q(z_t|z_{t-1}) - log p(z_t|z_{t+1})], a term for each layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, Literal, NamedTuple, Protocol

import torch

Terms = dict[str, torch.Tensor]


class PixelLikelihood(Protocol):
    """p(x|z) of a VAE."""

    def log_prob(self, x: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """log p(x|z) in nats, (L, B), of images (B, C, H, W) by the decoder's outputs (L, B, ...)."""


class LatentVariableModel(Protocol):
    """A VAE as the objectives call it."""

    def __call__(
        self,
        sample: torch.Tensor,
        /,
        *,
        latent_noise: torch.Tensor,
        reparameterize: bool | Literal["doubly"] = True,
    ) -> tuple[torch.Tensor, ...]:
        """Mean and log variance of q(z_1|x), (B, size), and z_1 (L, B, size); for each further layer mean, log variance and
        sample of q(z_t|z_{t-1}) and mean and log variance of p(z_{t-1}|z_t); last the decoder's outputs (L, B, ...).

        With `reparameterize` False no gradient goes through the samples to the encoder. With "doubly" the moments of
        q(z_t|z_{t-1}) for t > 1 have their gradients through z_{t-1} alone, and the samples can have theirs weighted.
        """


class Layer(NamedTuple):
    """What q(z_t|z_{t-1}) and p(z_t|z_{t+1}) say of the samples z_t; `prior` is None at the top, for N(0, I)."""

    mean: torch.Tensor
    logvar: torch.Tensor
    z: torch.Tensor
    noise: torch.Tensor
    prior: tuple[torch.Tensor, torch.Tensor] | None

    def log_ratio(self) -> torch.Tensor:
        """log q(z_t|z_{t-1}) - log p(z_t|z_{t+1}) in nats, (L, B); log q by the noise."""
        if self.prior is None:
            return log_ratio(self.logvar, self.z, self.noise)
        return 0.5 * (self._surprise() - self.noise.square() - self.logvar).sum(-1)

    def log_ratio_by_moments(self) -> torch.Tensor:
        """The same with log q by the mean and the log variance, which the gradient through z needs; these as constants of a VAE."""
        distance = (self.z - self.mean).square() * (-self.logvar).exp()
        return 0.5 * (self._surprise() - distance - self.logvar).sum(-1)

    def kl(self) -> torch.Tensor:
        """Its mean over as many noises as can be done without, (B,) or (L, B): at the top KL(q(z_T|z_{T-1}) || N(0, I)).

        Below, the entropy of q(z_t|z_{t-1}) is known, while p(z_t|z_{t+1}) depends on z_t through z_{t+1}.
        """
        if self.prior is None:
            return 0.5 * (self.mean.square() + self.logvar.exp() - 1 - self.logvar).sum(-1)
        return 0.5 * (self._surprise() - 1 - self.logvar).sum(-1)

    def log_q(self) -> torch.Tensor:
        """log q(z_t|z_{t-1}) but for a constant, (L, B), as a function of its moments."""
        return -0.5 * ((self.z - self.mean).square() * (-self.logvar).exp() + self.logvar).sum(-1)

    def _surprise(self) -> torch.Tensor:
        """-2 log p(z_t|z_{t+1}) of each latent, but for log 2 pi."""
        if self.prior is None:
            return self.z.square()
        mean, logvar = self.prior
        return (self.z - mean).square() * (-logvar).exp() + logvar


def sampled(
    model: LatentVariableModel, x: torch.Tensor, latent_noise: torch.Tensor, **arguments: Any
) -> tuple[list[Layer], torch.Tensor]:
    """The layers, z_1 first, and the outputs of the decoder, as a model returns them."""
    *moments, outputs = model(x, latent_noise=latent_noise, **arguments)
    found = [moments[:3], *(moments[i : i + 3] for i in range(3, len(moments), 5))]
    priors = [*((moments[i], moments[i + 1]) for i in range(6, len(moments), 5)), None]
    noises = latent_noise.split([z.shape[-1] for _, _, z in found], dim=-1)
    layers = zip(found, noises, priors, strict=True)
    return [Layer(mean, logvar, z, noise, prior) for (mean, logvar, z), noise, prior in layers], outputs


@dataclass(frozen=True)
class SGVBB:
    """The bound with its KL in closed form as far as it has one: -KL(q(z|x) || p(z)) + 1/L sum_l log p(x|z_l) for one layer.

    For several see `Layer.kl`. Source: Kingma & Welling 2014, equations 7 and 10.
    """

    likelihood: PixelLikelihood

    def __call__(
        self,
        model: LatentVariableModel,
        x: torch.Tensor,
        latent_noise: torch.Tensor,
        kl_weight: float = 1.0,
        free_bits: float = 0.0,
    ) -> Terms:
        layers, outputs = sampled(model, x, latent_noise)
        reconstruction = -self.likelihood.log_prob(x, outputs).mean(0)
        kls = [layer.kl() for layer in layers]
        return _bound(reconstruction, [kl if kl.ndim == 1 else kl.mean(0) for kl in kls], kl_weight, free_bits)


@dataclass(frozen=True)
class SGVBA:
    """The bound all by Monte Carlo: 1/L sum_l [log p(x, z_l) - log q(z_l|x)].

    Source: Kingma & Welling 2014, equation 6.
    """

    likelihood: PixelLikelihood

    def __call__(
        self,
        model: LatentVariableModel,
        x: torch.Tensor,
        latent_noise: torch.Tensor,
        kl_weight: float = 1.0,
        free_bits: float = 0.0,
    ) -> Terms:
        layers, outputs = sampled(model, x, latent_noise)
        reconstruction = -self.likelihood.log_prob(x, outputs).mean(0)
        return _bound(reconstruction, [layer.log_ratio().mean(0) for layer in layers], kl_weight, free_bits)


@dataclass(frozen=True)
class ImportanceWeighted:
    """The importance-weighted bound: log 1/k sum_l p(x, z_l) / q(z_l|x) with k = L; k = 1 is SGVB A.

    `kl_weight` must be 1 and `free_bits` 0: there is no KL term. Source: Burda et al. 2016, equation 8.

    Attributes:
        gradient_samples: with `uniform`, numbers on [0, 1) of shape (B,), the gradient goes through so many samples alone, which
            are drawn by their normalised weights w_l: the mean of grad log w over these is that of the bound's gradient,
            sum_l w_l grad log w_l. All others cost no backward pass. Source: Burda et al. 2016, end of section 3.
    """

    likelihood: PixelLikelihood
    gradient_samples: int | None = None

    def __call__(
        self,
        model: LatentVariableModel,
        x: torch.Tensor,
        latent_noise: torch.Tensor,
        kl_weight: float = 1.0,
        free_bits: float = 0.0,
        uniform: torch.Tensor | None = None,
    ) -> Terms:
        _check_no_kl_term(kl_weight, free_bits)
        if uniform is None or self.gradient_samples is None:
            return _importance_weighted(*self._sampled(model, x, latent_noise))
        with torch.no_grad():
            log_likelihood, ratios = ImportanceWeighted._sampled(self, model, x, latent_noise)
        terms = _importance_weighted(log_likelihood, ratios)
        weights = torch.softmax(log_likelihood - _total(ratios), 0)
        chosen = drawn_by_weight(weights, uniform, self.gradient_samples)
        noise = latent_noise.gather(0, chosen.unsqueeze(-1).expand(-1, -1, latent_noise.shape[-1]))
        log_likelihood, ratios = self._sampled(model, x, noise, weights.gather(0, chosen))
        surrogate = (_total(ratios) - log_likelihood).mean(0)
        return {**terms, "loss": terms["loss"] + surrogate - surrogate.detach()}

    def _sampled(
        self,
        model: LatentVariableModel,
        x: torch.Tensor,
        latent_noise: torch.Tensor,
        weights: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """log p(x|z_1) and the layers' log ratios, (L, B) each. `weights` (L, B) are what `DReG` weights by; None: their own."""
        layers, outputs = sampled(model, x, latent_noise)
        return self.likelihood.log_prob(x, outputs), [layer.log_ratio() for layer in layers]


class DReG(ImportanceWeighted):
    """The importance-weighted bound with a doubly reparameterised gradient of the encoder: sum_l w_l^2 d log w_l / dz_l dz_l / dphi.

    w_l are the normalised weights. Its mean is that of the bound's own gradient. The score of q, whose mean is 0 but whose
    noise drowns the rest where k is large, is out of it: log q knows the encoder's weights as constants, in each factor of a
    chain. The decoder's gradient is the bound's own. Source: Tucker et al. 2019, equation 8.
    """

    def _sampled(
        self,
        model: LatentVariableModel,
        x: torch.Tensor,
        latent_noise: torch.Tensor,
        weights: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        layers, outputs = sampled(model, x, latent_noise, reparameterize="doubly")
        first = layers[0]._replace(mean=layers[0].mean.detach(), logvar=layers[0].logvar.detach())
        log_likelihood = self.likelihood.log_prob(x, outputs)
        ratios = [layer.log_ratio_by_moments() for layer in (first, *layers[1:])]
        if weights is None:
            weights = torch.softmax((log_likelihood - _total(ratios)).detach(), 0)
        for layer in layers:
            # d loss / dz_l holds w_l once, by the logsumexp or by what was drawn; on its way to the encoder it takes it again
            if layer.z.requires_grad:
                layer.z.register_hook(partial(torch.mul, weights.unsqueeze(-1)))
        return log_likelihood, ratios


def drawn_by_weight(weights: torch.Tensor, uniform: torch.Tensor, count: int) -> torch.Tensor:
    """Indices (count, B) of the rows of normalised weights (k, B), each as often as its weight in the mean, by one number a column.

    Systematic resampling: points (i + uniform) / count of the weights' cumulative sum, so that a row comes to within one as
    often as count times its weight. Source: Kitagawa 1996, appendix.
    """
    points = (torch.arange(count, device=uniform.device) + uniform.unsqueeze(-1)) / count
    found = torch.searchsorted(weights.cumsum(0).mT.contiguous(), points.to(weights.dtype), right=True)
    return found.clamp(max=len(weights) - 1).mT


@dataclass(frozen=True)
class ScoreFunction:
    """SGVB A's value with the score-function gradient of the encoder: (f(z) - b) grad log q(z|x), f = log p(x, z) - log q(z|x).

    With `baseline`, b is the mean of f over the other samples of the image or, for L = 1, over the other images of the
    batch: independent of z, so the gradient stays unbiased. The decoder's gradient is SGVB A's. `free_bits` must be 0.

    Source: Paisley et al. 2012; Mnih & Gregor 2014, equations 5 to 8; the baseline: Mnih & Rezende 2016, equation 6.
    """

    likelihood: PixelLikelihood
    baseline: bool = True

    def __call__(
        self,
        model: LatentVariableModel,
        x: torch.Tensor,
        latent_noise: torch.Tensor,
        kl_weight: float = 1.0,
        free_bits: float = 0.0,
    ) -> Terms:
        if free_bits:
            raise ValueError(f"free_bits={free_bits}: the score function weights the bound as a whole, pass 0")
        layers, outputs = sampled(model, x, latent_noise, reparameterize=False)
        log_likelihood = self.likelihood.log_prob(x, outputs)
        ratios = [layer.log_ratio() for layer in layers]
        f = log_likelihood.detach() - kl_weight * _total(ratios).detach()
        log_q = _total([layer.log_q() for layer in layers])
        # its value is taken off again, so that the loss reads as the bound; what it adds is a gradient of q's parameters
        score = ((f - self._baseline(f)) * log_q).mean(0)
        # of the ratios p's part alone has a gradient, that of the layers between which there is a p
        kls = [self._of_the_model(layer).mean(0) for layer in layers]
        terms = _bound(-log_likelihood.mean(0), kls, kl_weight, 0.0)
        return {**terms, "loss": terms["loss"] - (score - score.detach())}

    @staticmethod
    def _of_the_model(layer: Layer) -> torch.Tensor:
        """The layer's log ratio, which no gradient goes through to q."""
        return layer._replace(mean=layer.mean.detach(), logvar=layer.logvar.detach()).log_ratio()

    def _baseline(self, f: torch.Tensor) -> torch.Tensor | float:
        """The mean of the others along the samples (L > 1) or the batch."""
        along = 0 if len(f) > 1 else 1
        others = f.shape[along] - 1
        if not self.baseline or others == 0:
            return 0.0
        return (f.sum(along, keepdim=True) - f) / others


def _total(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return reduce(torch.add, parts)


def _bound(reconstruction: torch.Tensor, kls: Sequence[torch.Tensor], kl_weight: float, free_bits: float) -> Terms:
    counted = _total([kl.clamp(min=free_bits) for kl in kls] if free_bits else kls)
    return {"loss": reconstruction + kl_weight * counted, "reconstruction": reconstruction, **_by_layer(kls)}


def _importance_weighted(log_likelihood: torch.Tensor, ratios: Sequence[torch.Tensor]) -> Terms:
    """-log 1/k sum_l w_l of log p(x|z_1) and the log ratios of the layers, each (k, B)."""
    loss = math.log(len(log_likelihood)) - torch.logsumexp(log_likelihood - _total(ratios), 0)
    kls = [ratio.detach().mean(0) for ratio in ratios]
    return {"loss": loss, "reconstruction": -log_likelihood.detach().mean(0), **_by_layer(kls)}


def _by_layer(kls: Sequence[torch.Tensor]) -> Terms:
    several = dict(zip(layer_terms(len(kls)), kls, strict=False))
    return {"kl": _total(kls), **several}


def layer_terms(layers: int) -> tuple[str, ...]:
    """Names of the layers' KL terms, z_1's first; a single layer has none beside "kl"."""
    return tuple(f"kl_{layer}" for layer in range(1, layers + 1)) if layers > 1 else ()


def _check_no_kl_term(kl_weight: float, free_bits: float) -> None:
    if kl_weight != 1.0:
        raise ValueError(f"kl_weight={kl_weight}: the importance-weighted bound has no KL term to weight")
    if free_bits:
        raise ValueError(f"free_bits={free_bits}: the importance-weighted bound has no KL term to hold up")


def log_ratio(logvar: torch.Tensor, z: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """log q(z|x) - log p(z) in nats, (L, B), at z = mean + exp(logvar / 2) * noise, all three with latent_size last."""
    return 0.5 * (z.square() - noise.square() - logvar).sum(-1)


def kl_weight(step: int, warmup_steps: int) -> float:
    """The weight of the KL term at optimizer step `step`, counted from 0: linear from 1 / warmup_steps to 1.

    Source: Bowman et al. 2016, section 3.1; Sonderby et al. 2016, section 2.3.
    """
    return 1.0 if warmup_steps == 0 else min(1.0, (step + 1) / warmup_steps)
