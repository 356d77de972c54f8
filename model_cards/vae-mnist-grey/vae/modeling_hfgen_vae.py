"""Variational autoencoders (Kingma & Welling 2014) as diffusers models. This file needs diffusers and what comes with it alone."""

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
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import nn

ACTIVATIONS = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
}
PADDINGS = ("zeros", "replicate")
LEVELS = 256
BIN = 2 / (LEVELS - 1)
LOG_2PI = math.log(2 * math.pi)
# Copied from hfgen.pipelines.denoising.Generators
Generators = torch.Generator | list[torch.Generator] | None


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


LIKELIHOODS = {
    "bernoulli": lambda variance: Bernoulli(),
    "bernoulli_static": lambda variance: Bernoulli("static"),
    "bernoulli_grey": lambda variance: Bernoulli(None, "pseudo-log-likelihood of grey pixels", discrete=False),
    "gaussian": Gaussian,
    "discretized_logistic": lambda variance: DiscretizedLogistic(),
    "discretized_logistic_rgb": lambda variance: DiscretizedLogisticRGB(),
    "categorical": lambda variance: Categorical(),
}


class _VAE(ModelMixin, ConfigMixin):
    """What the VAEs share: p(z) = N(0, I), q(z|x) = N(mu, diag(sigma^2)), and p(x|z) named by config.likelihood.

    A subclass brings `encoder`, from (B, C, H, W) to (B, 2 * latent_size), and `decoder`, from (B, latent_size) to
    (B, C * likelihood.channels, H, W).
    """

    _auto_class = "AutoModel"

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save weights, config and this file; arguments as in `ModelMixin.save_pretrained`.

        `AutoModel.from_pretrained(..., trust_remote_code=True)` then loads the folder where this project is not installed.
        """
        os.makedirs(save_directory, exist_ok=True)
        save_code(type(self), Path(save_directory))
        super().save_pretrained(os.fspath(save_directory), **kwargs)

    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> tuple:
        """As in `ConfigMixin`, without "auto_map", by which `AutoModel` finds a class: it is not an argument of one."""
        return super().extract_init_dict({k: v for k, v in config_dict.items() if k != "auto_map"}, **kwargs)

    def _init_distributions(self) -> int:
        """Make the likelihood of the config; returns the channels that the decoder needs. `ValueError` for values out of range."""
        config = self.config
        if config.likelihood not in LIKELIHOODS:
            raise ValueError(f"likelihood={config.likelihood!r}: choose one of {', '.join(LIKELIHOODS)}")
        variance = config.gaussian_variance
        if variance is not None and not 0 < variance < math.inf:
            raise ValueError(f"gaussian_variance={variance}: it must be greater than 0, or none to learn it")
        if variance is not None and config.likelihood != "gaussian":
            raise ValueError(f"gaussian_variance={variance}: likelihood={config.likelihood!r} has none; pass None")
        if config.latent_bound is not None and not 0 < config.latent_bound < math.inf:
            raise ValueError(f"latent_bound={config.latent_bound}: it must be greater than 0, or None for no bound")
        for name in ("latent_size", "sample_size", "in_channels"):
            if config[name] < 1:
                raise ValueError(f"{name}={config[name]}: at least 1")
        self.likelihood = LIKELIHOODS[config.likelihood](variance)
        if config.likelihood == "discretized_logistic_rgb" and config.in_channels != 3:
            raise ValueError(
                f"likelihood={config.likelihood!r} is one of 3 channels, and in_channels={config.in_channels}"
            )
        learned = config.likelihood == "gaussian" and variance is None
        self.log_variance = nn.Parameter(torch.zeros(())) if learned else None
        # what the encoder takes off its input; trainers put the training images' mean here, which speeds up learning
        self.register_buffer("pixel_mean", torch.zeros(config.in_channels, config.sample_size, config.sample_size))
        return config.in_channels * (1 if learned else self.likelihood.channels)

    def encode(self, x: torch.Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple[DiagonalGaussian]:
        """q(z|x) of images (B, C, H, W) in [-1, 1], as `.latent_dist`. Raises `ValueError` for another shape."""
        size, channels = self.config.sample_size, self.config.in_channels
        if x.ndim != 4 or tuple(x.shape[1:]) != (channels, size, size):
            raise ValueError(f"images of shape {tuple(x.shape)}: this model takes (B, {channels}, {size}, {size})")
        mean, logvar = self.encoder(x - self.pixel_mean).chunk(2, dim=1)
        bound = self.config.latent_bound
        if bound is not None:
            mean, logvar = bound * torch.tanh(mean / bound), logvar.clamp(max=1)
        posterior = DiagonalGaussian(mean, logvar)
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode_outputs(self, z: torch.Tensor) -> torch.Tensor:
        """What `likelihood` takes, (..., C * likelihood.channels, H, W), from z (..., latent_size)."""
        if z.ndim < 2 or z.shape[-1] != self.config.latent_size:
            raise ValueError(f"latents of shape {tuple(z.shape)}: this model takes (B, {self.config.latent_size})")
        outputs = self.decoder(z.flatten(0, -2)).unflatten(0, z.shape[:-1])
        if self.log_variance is not None:
            outputs = _precise(outputs)
            outputs = torch.cat([outputs, self.log_variance.to(outputs.dtype).expand_as(outputs)], dim=-3)
        return outputs

    def decode(
        self, z: torch.Tensor, return_dict: bool = True, generator: Generators = None
    ) -> DecoderOutput | tuple[torch.Tensor]:
        """The mean of p(x|z), (B, C, H, W) in [-1, 1] (a Gaussian's may lie outside), of latents (B, latent_size), as `.sample`.

        `generator` is there for diffusers' interface and unused: to draw from p(x|z), pass what `decode_outputs` returns to
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
        reparameterize: bool = True,
    ) -> DecoderOutput | tuple[torch.Tensor, ...]:
        """Encode images (B, C, H, W) in [-1, 1] and decode z, q's mean or, with `sample_posterior`, a sample of q.

        With `latent_noise` (L, B, latent_size) the tensors that training objectives need are returned instead: the
        mean and log-variance of q(z|x), (B, latent_size), z = mean + std * latent_noise, (L, B, latent_size), and the
        outputs of the decoder, (L, B, C * likelihood.channels, H, W). Without `reparameterize` no gradient goes
        through z to the encoder.
        """
        posterior = self.encode(sample).latent_dist
        if latent_noise is None:
            return self.decode(posterior.sample(generator) if sample_posterior else posterior.mode(), return_dict)
        if latent_noise.ndim != 3 or latent_noise.shape[1:] != posterior.mean.shape:
            raise ValueError(
                f"latent_noise of shape {tuple(latent_noise.shape)}: for these images it is (L, {', '.join(map(str, posterior.mean.shape))})"
            )
        z = posterior.mean + posterior.std * latent_noise
        if not reparameterize:
            z = z.detach()
        return posterior.mean, posterior.logvar, z, self.decode_outputs(z)


class MLPVAE(_VAE):
    """A VAE of fully connected networks; the decoder's hidden sizes are the encoder's in reverse.

    Args:
        in_channels, sample_size: the images are (in_channels, sample_size, sample_size).
        latent_size: dimensions of z.
        hidden_sizes: units of the encoder's hidden layers; none makes a linear model.
        activation: one of tanh, relu, leaky_relu, elu, silu, gelu.
        likelihood: p(x|z), one of bernoulli (dynamically binarised pixels), bernoulli_static, bernoulli_grey (a
            pseudo-likelihood), gaussian, discretized_logistic, discretized_logistic_rgb (of images of 3 channels, which
            go together), categorical.
        gaussian_variance: of the gaussian likelihood; None: learned.
        latent_bound: keeps q's mean within (-latent_bound, latent_bound) by a scaled tanh and its log-variance below 1;
            None: no bound. p(z) has no mass far out, but an encoder may send an image unlike those that it was
            trained on there, at thousands of nats for that one image.

    Raises `ValueError` for values out of these ranges.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 1,
        sample_size: int = 28,
        latent_size: int = 2,
        hidden_sizes: tuple[int, ...] = (500,),
        activation: str = "tanh",
        likelihood: str = "bernoulli",
        gaussian_variance: float | None = None,
        latent_bound: float | None = None,
    ):
        super().__init__()
        out_channels = self._init_distributions()
        if any(size < 1 for size in hidden_sizes):
            raise ValueError(f"hidden_sizes={list(hidden_sizes)}: each at least 1")
        act, pixels = _activation(activation), sample_size**2
        sizes = (in_channels * pixels, *hidden_sizes)
        self.encoder = nn.Sequential(nn.Flatten(), *_layers(sizes, act), nn.Linear(sizes[-1], 2 * latent_size))
        sizes = (latent_size, *reversed(hidden_sizes))
        self.decoder = nn.Sequential(
            *_layers(sizes, act),
            nn.Linear(sizes[-1], out_channels * pixels),
            nn.Unflatten(1, (out_channels, sample_size, sample_size)),
        )


class ConvVAE(_VAE):
    """A VAE of convolutions: each block halves (in the decoder doubles) the side, a linear layer leads to z.

    Args:
        in_channels, sample_size: the images are (in_channels, sample_size, sample_size); the side must be divisible
            by the stride 2 ** len(block_out_channels).
        block_out_channels: channels of each block of the encoder; the decoder has them in reverse.
        latent_size, activation, likelihood, gaussian_variance, latent_bound: as in `MLPVAE`.
        padding_mode: of the convolutions, zeros or replicate. Zeros leave a frame on images that are not black at their
            borders; with replicate the decoder doubles the side by nearest neighbours and a convolution.

    Raises `ValueError` for values out of these ranges.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 1,
        sample_size: int = 28,
        latent_size: int = 32,
        block_out_channels: tuple[int, ...] = (32, 64),
        activation: str = "silu",
        likelihood: str = "discretized_logistic",
        gaussian_variance: float | None = None,
        latent_bound: float | None = None,
        padding_mode: str = "zeros",
    ):
        super().__init__()
        out_channels = self._init_distributions()
        if padding_mode not in PADDINGS:
            raise ValueError(f"padding_mode={padding_mode!r}: choose one of {', '.join(PADDINGS)}")
        if not block_out_channels or any(channels < 1 for channels in block_out_channels):
            raise ValueError(f"block_out_channels={list(block_out_channels)}: one number or more, each at least 1")
        act, stride = _activation(activation), 2 ** len(block_out_channels)
        if sample_size % stride:
            raise ValueError(
                f"sample_size={sample_size} is not divisible by {stride}, 2 for each of {len(block_out_channels)} blocks: "
                "pad or resize the images, or use fewer blocks"
            )
        side, last = sample_size // stride, block_out_channels[-1]
        encoder = [nn.Conv2d(in_channels, block_out_channels[0], 3, padding=1, padding_mode=padding_mode), act()]
        for i, channels in enumerate(block_out_channels):
            encoder += _down(block_out_channels[max(0, i - 1)], channels, act, padding_mode)
        self.encoder = nn.Sequential(*encoder, nn.Flatten(), nn.Linear(last * side**2, 2 * latent_size))
        decoder = [nn.Linear(latent_size, last * side**2), nn.Unflatten(1, (last, side, side)), act()]
        for i, channels in reversed(list(enumerate(block_out_channels))):
            decoder += _up(channels, block_out_channels[max(0, i - 1)], act, padding_mode)
        last_layer = nn.Conv2d(block_out_channels[0], out_channels, 3, padding=1, padding_mode=padding_mode)
        self.decoder = nn.Sequential(*decoder, last_layer)


def _activation(name: str) -> type[nn.Module]:
    if name not in ACTIVATIONS:
        raise ValueError(f"activation={name!r}: choose one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def _layers(sizes: Sequence[int], act: type[nn.Module]) -> list[nn.Module]:
    return [module for i, o in pairwise(sizes) for module in (nn.Linear(i, o), act())]


def _down(inputs: int, outputs: int, act: type[nn.Module], padding_mode: str) -> list[nn.Module]:
    halved = nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, padding_mode=padding_mode)
    return [halved, act(), nn.Conv2d(outputs, outputs, 3, padding=1, padding_mode=padding_mode), act()]


def _up(inputs: int, outputs: int, act: type[nn.Module], padding_mode: str) -> list[nn.Module]:
    if padding_mode == "zeros":
        up = [nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)]
    else:  # at the borders a transposed convolution sums half as many terms
        up = [nn.Upsample(scale_factor=2), nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode=padding_mode)]
    return [nn.Conv2d(inputs, inputs, 3, padding=1, padding_mode=padding_mode), act(), *up, act()]


def _precise(x: torch.Tensor) -> torch.Tensor:
    """In float32 or better: uniform numbers in 16 bits are too coarse, and some of them 1."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _draw(draw: Callable[..., torch.Tensor], like: torch.Tensor, generator: Generators) -> torch.Tensor:
    """Numbers of `like`'s shape from `torch.rand` or `torch.randn`; a list holds a generator for each row."""
    if isinstance(generator, list):
        return torch.cat([_draw(draw, row[None], g) for row, g in zip(like, generator, strict=True)])
    device = like.device if generator is None else generator.device
    return draw(like.shape, generator=generator, device=device, dtype=like.dtype).to(like.device)


def _to_level(x: torch.Tensor) -> torch.Tensor:
    return ((x + 1) / BIN).round().long()


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
