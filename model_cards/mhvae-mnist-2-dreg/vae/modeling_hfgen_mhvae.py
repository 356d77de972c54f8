"""Hierarchical VAEs, a Markov chain of latents, as diffusers models. This file needs diffusers and what comes with it alone."""

from __future__ import annotations

import inspect
import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

# Copied from hfgen.models.modeling_hfgen_vae.ACTIVATIONS
ACTIVATIONS = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
}
# Copied from hfgen.models.modeling_hfgen_vae.LEVELS
LEVELS = 256
# Copied from hfgen.models.modeling_hfgen_vae.BIN
BIN = 2 / (LEVELS - 1)
# Copied from hfgen.models.modeling_hfgen_vae.LOG_2PI
LOG_2PI = math.log(2 * math.pi)
# Copied from hfgen.pipelines.denoising.Generators
Generators = torch.Generator | list[torch.Generator] | None
Latents = tuple[torch.Tensor, ...]


# Copied from hfgen.models.modeling_hfgen_vae.DiagonalGaussian
class DiagonalGaussian:
    """q(z|x) = N(mean, diag(exp(logvar))) over the last dimension; the interface of diffusers' latent distributions.

    `mean`, `logvar`, `std` and `var` are (B, latent_size); logvar is kept within [-30, 20].
    """

    def __init__(self, mean: torch.Tensor, logvar: torch.Tensor):
        self.mean, self.logvar = mean, logvar.clamp(-30, 20)
        self.std, self.var = (self.logvar / 2).exp(), self.logvar.exp()

    def sample(self, generator: Generators = None) -> torch.Tensor:
        """z = mean + std * eps, (B, latent_size); a list holds a generator for each row."""
        return self.mean + self.std * _draw(torch.randn, self.mean, generator)

    def mode(self) -> torch.Tensor:
        """The mean, (B, latent_size)."""
        return self.mean

    def kl(self) -> torch.Tensor:
        """KL(q(z|x) || N(0, I)) in nats, (B,). Source: Kingma & Welling 2014, appendix B."""
        return 0.5 * (self.mean.square() + self.var - 1 - self.logvar).sum(-1)

    def log_prob(self, z: torch.Tensor) -> torch.Tensor:
        """log q(z|x) in nats of z (..., B, latent_size)."""
        return -0.5 * ((z - self.mean).square() / self.var + self.logvar + LOG_2PI).sum(-1)


# Copied from hfgen.models.modeling_hfgen_vae.Bernoulli
@dataclass(frozen=True)
class Bernoulli:
    """p(x|z) of pixels that are black or white; the decoder puts out the logit of white.

    Attributes common to all likelihoods:
        channels: decoder outputs for each value of a pixel.
        binarization: "dynamic" (drawn anew at each use), "static" (drawn once for each image) or None (grey pixels).
        quantity: what `log_prob` is, in words.
        discrete: whether `log_prob` is the logarithm of a probability of the data, and so an NLL may be made of it.

    x holds pixels in [-1, 1], (B, C, H, W); the decoder's outputs are (..., B, C * channels, H, W); `log_prob` is (..., B)
    in nats per image, `mean` and `sample` are (..., B, C, H, W) in [-1, 1] (a Gaussian's may lie outside).
    """

    channels: ClassVar[int] = 1
    binarization: str | None = "dynamic"
    quantity: str = "log-likelihood of binarised pixels"
    discrete: bool = True

    def log_prob(self, x: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        white = ((x + 1) / 2).expand_as(outputs)
        return -F.binary_cross_entropy_with_logits(outputs, white, reduction="none").sum((-3, -2, -1))

    def mean(self, outputs: torch.Tensor) -> torch.Tensor:
        """The expectation of the pixels."""
        return outputs.sigmoid() * 2 - 1

    def sample(self, outputs: torch.Tensor, generator: Generators = None) -> torch.Tensor:
        white = _precise(outputs).sigmoid()
        return (_draw(torch.rand, white, generator) < white).to(outputs.dtype) * 2 - 1


class _BernoulliLogProb(torch.autograd.Function):
    """sum of x l - log(1 + e^l) over the pixels, (L, B), of logits l (L, B, ...) and x (B, ...) on [0, 1].

    A sample at a time, so that what lies between stays in the processor's cache; the gradient x - sigmoid(l) is kept from the
    forward pass.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, white: torch.Tensor) -> torch.Tensor:
        pixels, learns = tuple(range(1, white.ndim)), ctx.needs_input_grad[0]
        gradient, log_prob = torch.empty_like(logits if learns else logits[:0]), logits.new_empty(logits.shape[:2])
        for sample, (logit, out) in enumerate(zip(logits, log_prob, strict=True)):
            out.copy_((logit * white - F.softplus(logit)).sum(pixels))
            if learns:
                torch.sub(white, torch.sigmoid(logit, out=gradient[sample]), out=gradient[sample])
        ctx.save_for_backward(gradient)
        return log_prob

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weight: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * weight.reshape(*weight.shape, *[1] * (gradient.ndim - 2)), None


class FusedBernoulli(Bernoulli):
    """`Bernoulli` whose `log_prob` and gradient take half the time where there are many samples of z."""

    def log_prob(self, x: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        """As `Bernoulli.log_prob`; no gradient goes to x."""
        logits = outputs.reshape(-1, *x.shape)
        return _BernoulliLogProb.apply(logits, ((x + 1) / 2).to(logits.dtype)).view(outputs.shape[:-3])


# Copied from hfgen.models.modeling_hfgen_vae.Gaussian
@dataclass(frozen=True)
class Gaussian:
    """N(x; output, s2 I), one variance s2 for all pixels: fixed, or learned and then a second output of the decoder.

    A density of continuous values: on 8-bit pixels no likelihood, and not comparable with one.
    """

    variance: float | None
    binarization: ClassVar[None] = None
    quantity: ClassVar[str] = "log-density of pixels in [-1, 1]"
    discrete: ClassVar[bool] = False

    @property
    def channels(self) -> int:
        """2 where the variance is learned."""
        return 2 if self.variance is None else 1

    def _split(self, outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.variance is None:
            return outputs.chunk(2, dim=-3)
        return outputs, outputs.new_tensor(math.log(self.variance))

    def log_prob(self, x: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        mean, log_variance = self._split(outputs)
        return -0.5 * ((x - mean).square() * (-log_variance).exp() + log_variance + LOG_2PI).sum((-3, -2, -1))

    def mean(self, outputs: torch.Tensor) -> torch.Tensor:
        """The mean of the Gaussian."""
        return self._split(outputs)[0]

    def sample(self, outputs: torch.Tensor, generator: Generators = None) -> torch.Tensor:
        mean, log_variance = self._split(outputs)
        return mean + (log_variance / 2).exp() * _draw(torch.randn, mean, generator)


# Copied from hfgen.models.modeling_hfgen_vae.DiscretizedLogistic
class DiscretizedLogistic:
    """A logistic density summed over the 256 bins of a pixel's values; the edge bins reach to infinity.

    The decoder puts out the location and the log of the scale (kept within [-7, 20]), both in units of [-1, 1].
    Source: Kingma et al. 2016 (IAF), appendix; Salimans et al. 2017, equation 2.
    """

    channels = 2
    binarization = None
    quantity = "log-likelihood of 8-bit pixels"
    discrete = True

    @staticmethod
    def _split(outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        location, log_scale = outputs.chunk(2, dim=-3)
        return location, log_scale.clamp(-7, 20)

    def log_prob(self, x: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        location, log_scale = self._split(outputs)
        inverse_scale = (-log_scale).exp()
        above = (x - location + BIN / 2) * inverse_scale
        below = (x - location - BIN / 2) * inverse_scale
        # log(s(a) - s(b)) = log s(a) + log s(-b) + log(1 - exp(b - a)), s the sigmoid: exact for any a > b
        inner = torch.log(-torch.expm1(-BIN * inverse_scale))
        lowest, highest = x < -1 + BIN / 2, x > 1 - BIN / 2
        log_p = torch.where(highest, 0, F.logsigmoid(above)) + torch.where(lowest, 0, F.logsigmoid(-below))
        return (log_p + torch.where(lowest | highest, 0, inner)).sum((-3, -2, -1))

    def mean(self, outputs: torch.Tensor) -> torch.Tensor:
        """The expectation over the 256 values: the lowest plus a bin for each edge, times the probability above it."""
        location, log_scale = self._split(outputs)
        scale, mean = log_scale.exp(), torch.full_like(location, -1)
        for level in range(LEVELS - 1):
            mean += BIN * ((location - (-1 + (level + 0.5) * BIN)) / scale).sigmoid()
        return mean

    def sample(self, outputs: torch.Tensor, generator: Generators = None) -> torch.Tensor:
        location, log_scale = self._split(_precise(outputs))
        u = _draw(torch.rand, location, generator).clamp(1e-7, 1 - 1e-7)
        values = location + log_scale.exp() * (u.log() - (-u).log1p())
        return _from_level(_to_level(values.clamp(-1, 1)), outputs.dtype)


# Copied from hfgen.models.modeling_hfgen_vae.DiscretizedLogisticRGB
class DiscretizedLogisticRGB(DiscretizedLogistic):
    """Discretised logistics of red, of green given red, and of blue given both: neighbouring colours go together.

    A third output for each channel holds the coefficients a, b, c, of which the tanh is taken: the location of green is
    moved by a red, that of blue by b red + c green. Source: Salimans et al. 2017, section 2.2, with one component.
    """

    channels = 3

    @staticmethod
    def _moved(outputs: torch.Tensor, channel: int, before: Sequence[torch.Tensor]) -> torch.Tensor:
        """Location and log scale of a channel, (..., 2, H, W), by the values of those before it, (..., 1, H, W) each."""
        location, log_scale, coefficients = (part.split(1, dim=-3) for part in outputs.chunk(3, dim=-3))
        own = coefficients[:1] if channel == 1 else coefficients[1:]
        moved = location[channel] + sum(c.tanh() * value for c, value in zip(own, before, strict=False))
        return torch.cat([moved, log_scale[channel].expand_as(moved)], dim=-3)

    def log_prob(self, x: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        log_prob, values = super().log_prob, x.split(1, dim=-3)
        return sum(log_prob(value, self._moved(outputs, i, values[:i])) for i, value in enumerate(values))

    def mean(self, outputs: torch.Tensor) -> torch.Tensor:
        """The expectation of red; of green and blue that at the expectations of the channels before.

        What clips a value at 0 and 255 keeps it from being theirs to the last digit where a pixel is near these ends.
        """
        return self._in_turn(super().mean, outputs)

    def sample(self, outputs: torch.Tensor, generator: Generators = None) -> torch.Tensor:
        return self._in_turn(partial(super().sample, generator=generator), outputs)

    def _in_turn(self, take: Callable[[torch.Tensor], torch.Tensor], outputs: torch.Tensor) -> torch.Tensor:
        found: list[torch.Tensor] = []
        for channel in range(3):
            found.append(take(self._moved(outputs, channel, found)))
        return torch.cat(found, dim=-3)


# Copied from hfgen.models.modeling_hfgen_vae.Categorical
class Categorical:
    """A free distribution over the 256 values of a pixel; the decoder puts out their logits."""

    channels = LEVELS
    binarization = None
    quantity = "log-likelihood of 8-bit pixels"
    discrete = True

    @staticmethod
    def _logits(outputs: torch.Tensor) -> torch.Tensor:
        """(..., C, H, W, 256)"""
        return outputs.unflatten(-3, (-1, LEVELS)).movedim(-3, -1)

    def log_prob(self, x: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        logits = self._logits(outputs)
        level = _to_level(x).expand(logits.shape[:-1]).unsqueeze(-1)
        return (logits.gather(-1, level).squeeze(-1) - logits.logsumexp(-1)).sum((-3, -2, -1))

    def mean(self, outputs: torch.Tensor) -> torch.Tensor:
        values = _from_level(torch.arange(LEVELS, device=outputs.device), outputs.dtype)
        return self._logits(outputs).softmax(-1) @ values

    def sample(self, outputs: torch.Tensor, generator: Generators = None) -> torch.Tensor:
        logits = self._logits(_precise(outputs))
        u = _draw(torch.rand, logits, generator).clamp(min=1e-20)
        return _from_level((logits - (-u.log()).log()).argmax(-1), outputs.dtype)


class _CategoricalLogProb(torch.autograd.Function):
    """Sum over the pixels of log softmax at their levels, (N,), of logits (N, C, 256, H, W) and int64 levels (N, C, 1, H, W).

    An image at a time, as `_BernoulliLogProb`; the gradient, what is there minus the softmax, is kept from the forward pass.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        gradient, log_prob = torch.empty_like(logits), logits.new_empty(len(logits))
        there = logits.new_ones(()).expand(levels.shape[1:])
        for logit, level, slope, out in zip(logits, levels, gradient, log_prob, strict=True):
            highest = logit.amax(1, keepdim=True)
            torch.sub(logit, highest, out=slope).exp_()
            total = slope.sum(1, keepdim=True)
            out.copy_((logit.gather(1, level) - highest - total.log()).sum())
            slope.div_(total.neg_()).scatter_add_(1, level, there)
        ctx.save_for_backward(gradient)
        return log_prob

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weight: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * weight.view(-1, 1, 1, 1, 1), None


class FusedCategorical(Categorical):
    """`Categorical` whose `log_prob` and gradient take a fraction of the time."""

    def log_prob(self, x: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        logits = outputs.unflatten(-3, (-1, LEVELS)).flatten(0, outputs.ndim - 4)
        levels = _to_level(x).unsqueeze(2).expand(*outputs.shape[:-4], *x.shape[:2], 1, *x.shape[2:])
        return _CategoricalLogProb.apply(logits, levels.reshape(len(logits), *levels.shape[-4:])).view(
            outputs.shape[:-3]
        )


LIKELIHOODS = {
    "bernoulli": lambda variance: FusedBernoulli(),
    "bernoulli_static": lambda variance: FusedBernoulli("static"),
    "bernoulli_grey": lambda variance: FusedBernoulli(None, "pseudo-log-likelihood of grey pixels", discrete=False),
    "gaussian": Gaussian,
    "discretized_logistic": lambda variance: DiscretizedLogistic(),
    "discretized_logistic_rgb": lambda variance: DiscretizedLogisticRGB(),
    "categorical": lambda variance: FusedCategorical(),
}


class _MHVAE(ModelMixin, ConfigMixin):
    """What hierarchical VAEs share: two Markov chains of diagonal Gaussians over z_1, ..., z_T, in opposite directions.

    q(z_1|x) prod_t q(z_t|z_{t-1}) is the encoder; p(z_T) prod_t p(z_{t-1}|z_t) p(x|z_1) is the model, with p(z_T) = N(0, I) and
    p(x|z_1) named by config.likelihood. Layers are counted from 1, next to the image, to T.

    A subclass brings two lists of networks. Each puts out a mean and a log variance side by side: `encoders[t - 1]` those of
    q(z_t|z_{t-1}), with images (B, C, H, W) for z_0, `decoders[t - 1]` those of p(z_{t-1}|z_t), and of t = 1 the pixels'
    (B, C * likelihood.channels, H, W).
    """

    _auto_class = "AutoModel"
    latent_sizes: tuple[int, ...]

    # Copied from hfgen.models.modeling_hfgen_vae._VAE.save_pretrained
    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save weights, config and this file; arguments as in `ModelMixin.save_pretrained`.

        `AutoModel.from_pretrained(..., trust_remote_code=True)` then loads the folder where this project is not installed.
        """
        os.makedirs(save_directory, exist_ok=True)
        save_code(type(self), Path(save_directory))
        super().save_pretrained(os.fspath(save_directory), **kwargs)

    # Copied from hfgen.models.modeling_hfgen_vae._VAE.extract_init_dict
    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> tuple:
        """As in `ConfigMixin`, without "auto_map", by which `AutoModel` finds a class: it is not an argument of one."""
        return super().extract_init_dict({k: v for k, v in config_dict.items() if k != "auto_map"}, **kwargs)

    def _init_distributions(self, latent_sizes: Sequence[int]) -> int:
        """Make the likelihood of the config; returns the channels that the decoder needs. `ValueError` for values out of range."""
        config = self.config
        if config.likelihood not in LIKELIHOODS:
            raise ValueError(f"likelihood={config.likelihood!r}: choose one of {', '.join(LIKELIHOODS)}")
        if config.likelihood == "discretized_logistic_rgb" and config.in_channels != 3:
            raise ValueError(
                f"likelihood={config.likelihood!r} is one of 3 channels, and in_channels={config.in_channels}"
            )
        variance = config.gaussian_variance
        if variance is not None and not 0 < variance < math.inf:
            raise ValueError(f"gaussian_variance={variance}: it must be greater than 0, or none to learn it")
        if variance is not None and config.likelihood != "gaussian":
            raise ValueError(f"gaussian_variance={variance}: likelihood={config.likelihood!r} has none; pass None")
        if config.latent_bound is not None and not 0 < config.latent_bound < math.inf:
            raise ValueError(f"latent_bound={config.latent_bound}: it must be greater than 0, or None for no bound")
        for name in ("sample_size", "in_channels"):
            if config[name] < 1:
                raise ValueError(f"{name}={config[name]}: at least 1")
        self.latent_sizes = tuple(latent_sizes)
        self.likelihood = LIKELIHOODS[config.likelihood](variance)
        learned = config.likelihood == "gaussian" and variance is None
        self.log_variance = nn.Parameter(torch.zeros(())) if learned else None
        # what the encoder takes off its input; trainers put the training images' mean here, which speeds up learning
        self.register_buffer("pixel_mean", torch.zeros(config.in_channels, config.sample_size, config.sample_size))
        return config.in_channels * (1 if learned else self.likelihood.channels)

    def encode(self, x: torch.Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple[DiagonalGaussian]:
        """q(z_1|x) of images (B, C, H, W) in [-1, 1], as `.latent_dist`. Raises `ValueError` for another shape."""
        size, channels = self.config.sample_size, self.config.in_channels
        if x.ndim != 4 or tuple(x.shape[1:]) != (channels, size, size):
            raise ValueError(f"images of shape {tuple(x.shape)}: this model takes (B, {channels}, {size}, {size})")
        posterior = self._bounded(self.encoders[0](x - self.pixel_mean))
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def posterior(self, layer: int, below: torch.Tensor) -> DiagonalGaussian:
        """q(z_t|z_{t-1}) of t = `layer` >= 2, from z_{t-1} (..., latent_sizes[t - 2])."""
        return self._bounded(_rows(self.encoders[layer - 1], below))

    def prior(self, layer: int, above: torch.Tensor) -> DiagonalGaussian:
        """p(z_t|z_{t+1}) of t = `layer` < T, from z_{t+1} (..., latent_sizes[t])."""
        return DiagonalGaussian(*_rows(self.decoders[layer], above).chunk(2, dim=-1))

    def _bounded(self, moments: torch.Tensor) -> DiagonalGaussian:
        mean, logvar = moments.chunk(2, dim=-1)
        bound = self.config.latent_bound
        if bound is not None:
            mean, logvar = bound * torch.tanh(mean / bound), logvar.clamp(max=1)
        return DiagonalGaussian(mean, logvar)

    def decode_outputs(self, z: torch.Tensor) -> torch.Tensor:
        """What `likelihood` takes, (..., C * likelihood.channels, H, W), from z_1 (..., latent_sizes[0])."""
        if z.ndim < 2 or z.shape[-1] != self.latent_sizes[0]:
            raise ValueError(
                f"latents of shape {tuple(z.shape)}: the first layer of this model is (B, {self.latent_sizes[0]})"
            )
        outputs = _rows(self.decoders[0], z)
        if self.log_variance is not None:
            outputs = _precise(outputs)
            outputs = torch.cat([outputs, self.log_variance.to(outputs.dtype).expand_as(outputs)], dim=-3)
        return outputs

    def decode(
        self, z: torch.Tensor, return_dict: bool = True, generator: Generators = None
    ) -> DecoderOutput | tuple[torch.Tensor]:
        """The mean of p(x|z_1), (B, C, H, W) in [-1, 1] (a Gaussian's may lie outside), of z_1 (B, latent_sizes[0]), as `.sample`.

        `generator` is there for diffusers' interface and unused: to draw from p(x|z_1), pass what `decode_outputs` returns to
        `likelihood.sample`.
        """
        mean = self.likelihood.mean(self.decode_outputs(z))
        return DecoderOutput(sample=mean) if return_dict else (mean,)

    def forward(
        self,
        sample: torch.Tensor,
        sample_posterior: bool = False,
        return_dict: bool = True,
        generator: Generators = None,
        latent_noise: torch.Tensor | None = None,
        reparameterize: bool | Literal["doubly"] = True,
    ) -> DecoderOutput | tuple[torch.Tensor, ...]:
        """Encode images (B, C, H, W) in [-1, 1] and decode z_1, q's mean or, with `sample_posterior`, a sample of q.

        With `latent_noise` (L, B, sum of latent_sizes), layer by layer, the tensors that training objectives need are returned
        instead: mean, log-variance and sample of q(z_1|x); for each further layer those of q(z_t|z_{t-1}), and the mean
        and log-variance of p(z_{t-1}|z_t); last the outputs of the decoder. They are (L, B, ...), the first two (B, ...). Of
        one layer they are what the VAE returns.

        Gradients go through the samples to the encoders. With `reparameterize` False they do not. With "doubly" they go
        through the samples alone: the means and log-variances that are returned know the weights that made them as constants.
        """
        posterior = self.encode(sample).latent_dist
        if latent_noise is None:
            return self.decode(posterior.sample(generator) if sample_posterior else posterior.mode(), return_dict)
        expected = (len(sample), sum(self.latent_sizes))
        if latent_noise.ndim != 3 or latent_noise.shape[1:] != expected:
            raise ValueError(
                f"latent_noise of shape {tuple(latent_noise.shape)}: for these images it is (L, {', '.join(map(str, expected))})"
            )
        return self._chain(posterior, latent_noise, reparameterize)

    def _chain(
        self, posterior: DiagonalGaussian, latent_noise: torch.Tensor, reparameterize: bool | Literal["doubly"]
    ) -> Latents:
        """What `forward` returns with `latent_noise`."""
        first, *noises = latent_noise.split(self.latent_sizes, dim=-1)
        path = posterior.mean + posterior.std * first
        doubly = reparameterize == "doubly"
        z = _seen(path, reparameterize)
        found = [*_constant(posterior, doubly), z]
        for layer, noise in enumerate(noises, 2):
            # the path from below stays apart from what the terms see: a gradient that is weighted at one must not be
            # weighted again on its way down
            posterior = self.posterior(layer, path if doubly else z)
            path = posterior.mean + posterior.std * noise
            above = _seen(path, reparameterize)
            shown = self._with_constant_weights(layer, z) if doubly else posterior
            prior = self.prior(layer - 1, above)
            found += [shown.mean, shown.logvar, above, prior.mean, prior.logvar]
            z = above
        return *found, self.decode_outputs(found[2])

    def _with_constant_weights(self, layer: int, below: torch.Tensor) -> DiagonalGaussian:
        network = self.encoders[layer - 1]
        weights = {name: parameter.detach() for name, parameter in network.named_parameters()}
        return self._bounded(_rows(lambda rows: functional_call(network, weights, (rows,)), below))


class MLPMHVAE(_MHVAE):
    """A hierarchical VAE of fully connected networks; the decoder's hidden sizes are the encoder's in reverse.

    Args:
        in_channels, sample_size: the images are (in_channels, sample_size, sample_size).
        latent_sizes: dimensions of z_1, next to the image, to z_T. A single one makes a VAE.
        hidden_sizes: for each layer the units of the hidden layers of q(z_t|z_{t-1}); none makes it linear.
        activation: one of tanh, relu, leaky_relu, elu, silu, gelu.
        skip: add a linear map to each network between two layers of latents.
        layer_norm: normalise each hidden layer before its activation.
        likelihood: p(x|z_1), one of bernoulli (dynamically binarised pixels), bernoulli_static, bernoulli_grey (a
            pseudo-likelihood), gaussian, discretized_logistic, discretized_logistic_rgb (of images of 3 channels),
            categorical.
        gaussian_variance: of the gaussian likelihood; None: learned.
        latent_bound: keeps the means of q within (-latent_bound, latent_bound) by a scaled tanh and its log-variances below
            1; None: no bound.

    Raises `ValueError` for values out of these ranges.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 1,
        sample_size: int = 28,
        latent_sizes: tuple[int, ...] = (100, 50),
        hidden_sizes: tuple[tuple[int, ...], ...] = ((200, 200), (100, 100)),
        activation: str = "tanh",
        skip: bool = False,
        layer_norm: bool = False,
        likelihood: str = "bernoulli",
        gaussian_variance: float | None = None,
        latent_bound: float | None = None,
    ):
        super().__init__()
        _check_layers("latent_sizes", latent_sizes)
        if len(hidden_sizes) != len(latent_sizes):
            raise ValueError(
                f"hidden_sizes={_listed(hidden_sizes)}: write one list for each of the {len(latent_sizes)} layers of "
                f"latent_sizes={_listed(latent_sizes)}"
            )
        if any(size < 1 for sizes in hidden_sizes for size in sizes):
            raise ValueError(f"hidden_sizes={_listed(hidden_sizes)}: each at least 1")
        out_channels, pixels = self._init_distributions(latent_sizes), sample_size**2
        act = _activation(activation)
        self.encoders, self.decoders = nn.ModuleList(), nn.ModuleList()
        below = in_channels * pixels
        for layer, (size, hidden) in enumerate(zip(latent_sizes, hidden_sizes, strict=True)):
            network = _mlp(below, hidden, 2 * size, act, layer_norm)
            self.encoders.append(_Skip(network, nn.Linear(below, 2 * size, bias=False)) if skip and layer else network)
            below = size
        self.encoders[0].insert(0, nn.Flatten())
        below = out_channels * pixels
        for layer, (size, hidden) in enumerate(zip(latent_sizes, hidden_sizes, strict=True)):
            network = _mlp(size, hidden[::-1], below, act, layer_norm)
            self.decoders.append(_Skip(network, nn.Linear(size, below, bias=False)) if skip and layer else network)
            below = 2 * size
        self.decoders[0].append(nn.Unflatten(1, (out_channels, sample_size, sample_size)))


class ConvMHVAE(_MHVAE):
    """A hierarchical VAE of residual convolutions, whose latents are small images, flattened.

    Args:
        in_channels, sample_size: the images are (in_channels, sample_size, sample_size).
        latent_channels: channels of z_1, next to the image, to z_T.
        strides: by which the side of each layer is smaller than that of what is below it.
        block_out_channels: channels of the networks of each layer.
        layers_per_block: residual blocks of each network, on the side of its layer.
        fine_channels, fine_layers: channels and residual blocks of p(x|z_1) on the side of the image.
        skip: add a convolution without an activation to each network between two layers of latents.
        layer_norm: normalise before each activation of the residual blocks.
        activation, likelihood, gaussian_variance, latent_bound: as in `MLPMHVAE`.

    Raises `ValueError` for values out of these ranges.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 1,
        sample_size: int = 28,
        latent_channels: tuple[int, ...] = (4, 8),
        strides: tuple[int, ...] = (2, 2),
        block_out_channels: tuple[int, ...] = (32, 32),
        layers_per_block: int = 1,
        fine_channels: int = 16,
        fine_layers: int = 1,
        activation: str = "elu",
        skip: bool = False,
        layer_norm: bool = False,
        likelihood: str = "discretized_logistic",
        gaussian_variance: float | None = None,
        latent_bound: float | None = None,
    ):
        super().__init__()
        _check_layers("latent_channels", latent_channels)
        for name, values in (("strides", strides), ("block_out_channels", block_out_channels)):
            if len(values) != len(latent_channels) or any(value < 1 for value in values):
                raise ValueError(
                    f"{name}={_listed(values)}: write a number for each of the {len(latent_channels)} layers, each at least 1"
                )
        if layers_per_block < 0 or fine_layers < 0 or fine_channels < 1:
            raise ValueError(
                f"layers_per_block={layers_per_block}, fine_layers={fine_layers}, fine_channels={fine_channels}: at least 0, 0 and 1"
            )
        if sample_size % math.prod(strides):
            raise ValueError(
                f"sample_size={sample_size} is not divisible by {math.prod(strides)}, the product of strides={_listed(strides)}: "
                "pad or resize the images, or use smaller strides"
            )
        # (channels, side) of the image and of each layer
        shapes = [(in_channels, sample_size)]
        for channels, stride in zip(latent_channels, strides, strict=True):
            shapes.append((channels, shapes[-1][1] // stride))
        out_channels = self._init_distributions([channels * side**2 for channels, side in shapes[1:]])
        self.act, self.layer_norm = _activation(activation), layer_norm
        layers = list(zip(shapes, shapes[1:], strides, block_out_channels, strict=False))
        self.encoders = nn.ModuleList(
            self._encoder(*layer, layers_per_block, skip and i > 0) for i, layer in enumerate(layers)
        )
        first = nn.Sequential(
            self._decoder(fine_channels, *layers[0][1:], layers_per_block, False),
            *self._blocks(fine_channels, fine_layers),
            nn.Conv2d(fine_channels, out_channels, 1),
        )
        above = (
            self._decoder(2 * below[0], *layer, layers_per_block, skip).append(nn.Flatten())
            for below, *layer in layers[1:]
        )
        self.decoders = nn.ModuleList([first, *above])
        self.encoders[0] = self.encoders[0][1:]  # images come as they are

    def _encoder(
        self, below: tuple[int, int], here: tuple[int, int], stride: int, width: int, count: int, skip: bool
    ) -> nn.Sequential:
        network: nn.Module = nn.Sequential(
            nn.Conv2d(below[0], width, stride + 2, stride, padding=1),
            *self._blocks(width, count),
            nn.Conv2d(width, 2 * here[0], 3, padding=1),
        )
        if skip:
            network = _Skip(network, nn.Conv2d(below[0], 2 * here[0], stride, stride, bias=False))
        return nn.Sequential(nn.Unflatten(1, (below[0], below[1], below[1])), network, nn.Flatten())

    def _decoder(
        self, outputs: int, here: tuple[int, int], stride: int, width: int, count: int, skip: bool
    ) -> nn.Sequential:
        network: nn.Module = nn.Sequential(
            nn.Conv2d(here[0], width, 3, padding=1),
            *self._blocks(width, count),
            nn.ConvTranspose2d(width, outputs, stride + 2, stride, padding=1),
        )
        if skip:
            network = _Skip(network, nn.ConvTranspose2d(here[0], outputs, stride, stride, bias=False))
        return nn.Sequential(nn.Unflatten(1, (here[0], here[1], here[1])), network)

    def _blocks(self, width: int, count: int) -> list[nn.Module]:
        return [*(_Residual(width, self.act, self.layer_norm) for _ in range(count)), self.act()]


class _Skip(nn.Module):
    """The sum of a network and a linear map of its input."""

    def __init__(self, network: nn.Module, linear: nn.Module):
        super().__init__()
        self.network, self.linear = network, linear

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x) + self.linear(x)


class _Residual(nn.Module):
    """x + two convolutions of it, each behind an activation. Source: He et al. 2016."""

    def __init__(self, width: int, act: type[nn.Module], layer_norm: bool):
        super().__init__()
        norm = partial(nn.GroupNorm, 1, width) if layer_norm else nn.Identity
        conv = partial(nn.Conv2d, width, width, 3, padding=1)
        self.network = nn.Sequential(norm(), act(), conv(), norm(), act(), conv())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.network(x)


def _check_layers(name: str, sizes: Sequence[int]) -> None:
    if not sizes or any(size < 1 for size in sizes):
        raise ValueError(f"{name}={_listed(sizes)}: write a number for each layer, one layer or more, each at least 1")


def _listed(values: Sequence[Any]) -> str:
    return str([list(value) if isinstance(value, tuple) else value for value in values])


def _rows(network: Callable[[torch.Tensor], torch.Tensor], z: torch.Tensor) -> torch.Tensor:
    """What a network makes of each row of z (..., size)."""
    return network(z.flatten(0, -2)).unflatten(0, z.shape[:-1])


def _seen(path: torch.Tensor, reparameterize: bool | Literal["doubly"]) -> torch.Tensor:
    """A sample as the terms of the bound see it: for "doubly" a tensor of its own, whose gradient can be weighted."""
    if reparameterize == "doubly":
        return path.view_as(path)
    return path if reparameterize else path.detach()


def _constant(posterior: DiagonalGaussian, constant: bool) -> Latents:
    moments = posterior.mean, posterior.logvar
    return tuple(moment.detach() for moment in moments) if constant else moments


def _mlp(inputs: int, hidden: Sequence[int], outputs: int, act: type[nn.Module], layer_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size, above in pairwise((inputs, *hidden)):
        layers += [nn.Linear(size, above), *([nn.LayerNorm(above)] if layer_norm else []), act()]
    return nn.Sequential(*layers, nn.Linear((inputs, *hidden)[-1], outputs))


# Copied from hfgen.models.modeling_hfgen_vae._activation
def _activation(name: str) -> type[nn.Module]:
    if name not in ACTIVATIONS:
        raise ValueError(f"activation={name!r}: choose one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


# Copied from hfgen.models.modeling_hfgen_vae._precise
def _precise(x: torch.Tensor) -> torch.Tensor:
    """In float32 or better: uniform numbers in 16 bits are too coarse, and some of them 1."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


# Copied from hfgen.models.modeling_hfgen_vae._draw
def _draw(draw: Callable[..., torch.Tensor], like: torch.Tensor, generator: Generators) -> torch.Tensor:
    """Numbers of `like`'s shape from `torch.rand` or `torch.randn`; a list holds a generator for each row."""
    if isinstance(generator, list):
        return torch.cat([_draw(draw, row[None], g) for row, g in zip(like, generator, strict=True)])
    device = like.device if generator is None else generator.device
    return draw(like.shape, generator=generator, device=device, dtype=like.dtype).to(like.device)


# Copied from hfgen.models.modeling_hfgen_vae._to_level
def _to_level(x: torch.Tensor) -> torch.Tensor:
    return ((x + 1) / BIN).round().long()


# Copied from hfgen.models.modeling_hfgen_vae._from_level
def _from_level(level: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return (level.to(torch.promote_types(dtype, torch.float32)) * BIN - 1).to(dtype)


# Copied from hfgen.pipelines.saving.save_code
def save_code(cls: type, folder: Path) -> list[str]:
    """Copy the file of a class that diffusers has not; returns [module, class] as `model_index.json` names it."""
    if is_stock(cls):
        return ["diffusers", cls.__name__]
    source = Path(inspect.getsourcefile(cls))
    if source.resolve() != (folder / source.name).resolve():
        shutil.copyfile(source, folder / source.name)
    return [source.stem, cls.__name__]


# Copied from hfgen.pipelines.saving.is_stock
def is_stock(cls: type) -> bool:
    """Whether diffusers has the class."""
    return cls.__module__.split(".")[0] == "diffusers"
