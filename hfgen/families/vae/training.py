"""How a VAE is trained."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from hfgen.configs.training import TrainingConfig
from hfgen.core.binarize import binarize
from hfgen.core.errors import HfgenError
from hfgen.core.history import bound_label
from hfgen.core.media import unit_to_uint8
from hfgen.core.memory import check_fits
from hfgen.core.random import Stream, seeded
from hfgen.data.batch import Batch, RandomSpec
from hfgen.data.training_set import TrainingSet
from hfgen.families.base import PREVIEWS, OneOptimizer, Terms
from hfgen.families.model import Model
from hfgen.families.vae.flags import VAEFlags
from hfgen.models import build_vae, load_vae_config
from hfgen.objectives import SGVBA, SGVBB, ImportanceWeighted, ScoreFunction, kl_weight
from hfgen.pipelines import VAEPipeline

FLOAT32 = 4
OBJECTIVES: dict[str, Callable[[Any], Any]] = {
    "sgvb_a": SGVBA,
    "sgvb_b": SGVBB,
    "iw": ImportanceWeighted,
    "score_function": ScoreFunction,
    "score_function_no_baseline": lambda likelihood: ScoreFunction(likelihood, baseline=False),
}


@dataclass(frozen=True, kw_only=True)
class VAETask(OneOptimizer):
    """A bound on log p(x) as the loss, means of p(x|z) as previews.

    Attributes:
        objective: of `hfgen.objectives.variational`; it has the likelihood.
    """

    objective: Any
    image_shape: tuple[int, int, int]
    latent_size: int
    num_latent_samples: int
    kl_warmup_steps: int
    seed: int
    terms = ("loss", "reconstruction", "kl")

    @property
    def random(self) -> RandomSpec:
        """Noise for each sample of q(z|x), and a number for each pixel that is binarised anew at each use."""
        channels, height, width = self.image_shape
        dynamic = self.objective.likelihood.binarization == "dynamic"
        return RandomSpec(
            normal={"noise": (self.num_latent_samples, self.latent_size)},
            uniform={"pixels": (channels * height * width,)} if dynamic else {},
        )

    @property
    def ylabel(self) -> str:
        """What the loss is; a pseudo-likelihood does not pass for a likelihood."""
        return bound_label(self.objective.likelihood)

    def loss(self, model: Callable, batch: Batch, optimizer: str) -> Terms:
        """The negative bound with a warm-up of its KL."""
        return self._terms(model, batch, kl_weight(batch.step, self.kl_warmup_steps), Stream.TRAINING_NOISE)

    def held_out_loss(self, model: Callable, batch: Batch) -> Terms:
        """The negative bound."""
        return self._terms(model, batch, 1.0, Stream.VALIDATION_NOISE)

    def _terms(self, model, batch: Batch, weight: float, stream: Stream) -> Terms:
        kind = self.objective.likelihood.binarization
        x = binarize(kind, batch.data, batch.random.get("pixels"), batch.rows, (self.seed, stream))
        return self.objective(model, x, batch.random["noise"].transpose(0, 1), weight)

    def pipeline(self, module: torch.nn.Module) -> VAEPipeline:
        """The model as it is."""
        return VAEPipeline(module)

    def preview(self, module: torch.nn.Module) -> torch.Tensor:
        """64 means of p(x|z)."""
        generator = seeded(module.device, self.seed, Stream.SAMPLES)
        return unit_to_uint8(self.pipeline(module)(PREVIEWS, generator, output_type="pt").images).cpu()


def check_objective(model: VAEFlags) -> None:
    """Raise `HfgenError` for flags of the objective that do not go together."""
    if model.objective == "iw" and model.kl_warmup_steps:
        raise HfgenError(
            f"kl_warmup_steps={model.kl_warmup_steps}: the importance-weighted bound has no KL term to weight; pass 0"
        )


def check_samples_fit(config: TrainingConfig, module: torch.nn.Module, shape: tuple[int, int, int]) -> None:
    """Raise `HfgenError` for more samples of q(z|x) than there is memory for: each has a noise and the decoder's outputs."""
    samples, batch = config.model.num_latent_samples, config.optimization.train_batch_size
    values = module.config.latent_size + module.likelihood.channels * math.prod(shape)
    check_fits(
        samples * batch * values * FLOAT32,
        f"num_latent_samples={samples} of train_batch_size={batch}",
        "take fewer of either",
    )


def initial_config(model: VAEFlags, pretrained: Model | None) -> dict[str, Any]:
    """The config to build: a preset's, a file's, or that of a trained model, with what the flags change of it."""
    if pretrained is not None:
        config = {k: v for k, v in pretrained.module.config.items() if k != "_name_or_path"}
        config["_class_name"] = type(pretrained.module).__name__
    else:
        config = load_vae_config(model.model_config_name_or_path)
    for name in ("latent_size", "likelihood", "gaussian_variance"):
        value = getattr(model, name)
        if value is not None:
            config[name] = value
    if model.latent_bound is not None:
        config["latent_bound"] = model.latent_bound or None
    return config


def initial_model(
    model: VAEFlags, config: dict[str, Any], images: TrainingSet, pretrained: Model | None
) -> torch.nn.Module:
    """A new model that knows the images' mean, or one with the weights of a trained model.

    Raises `HfgenError` where these do not fit the images and flags.
    """
    vae = build_vae(config, images.resolution, images.channels)
    if pretrained is None:
        vae.pixel_mean.copy_(images.pixel_mean())
        return vae
    try:
        vae.load_state_dict(pretrained.module.state_dict())
    except RuntimeError as error:
        raise HfgenError(
            f"pretrained_model_name_or_path={model.pretrained_model_name_or_path!r} has weights of other shapes than the "
            "images and flags ask for: leave --latent_size, --likelihood, --gaussian_variance and --resolution as they are there"
        ) from error
    return vae
