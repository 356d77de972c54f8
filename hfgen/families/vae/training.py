"""How a VAE is trained."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import DiffusionPipeline

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
from hfgen.models import build_vae, load_vae_config
from hfgen.objectives import SGVBA, SGVBB, DReG, ImportanceWeighted, ScoreFunction, kl_weight, layer_terms

FLOAT32 = 4
OBJECTIVES: dict[str, Callable[[Any], Any]] = {
    "sgvb_a": SGVBA,
    "sgvb_b": SGVBB,
    "iw": ImportanceWeighted,
    "dreg": DReG,
    "score_function": ScoreFunction,
    "score_function_no_baseline": lambda likelihood: ScoreFunction(likelihood, baseline=False),
}


@dataclass(frozen=True, kw_only=True)
class VAETask(OneOptimizer):
    """A bound on log p(x) as the loss, means of p(x|z) as previews.

    Attributes:
        objective: of `hfgen.objectives.variational`; it has the likelihood.
        latent_sizes: dimensions of each layer of latents.
        pipeline_type: what is made of the network.
        free_bits: nats that each layer's KL counts for at least, in training alone.
    """

    objective: Any
    image_shape: tuple[int, int, int]
    latent_sizes: tuple[int, ...]
    num_latent_samples: int
    kl_warmup_steps: int
    free_bits: float
    seed: int
    pipeline_type: type[DiffusionPipeline]

    @property
    def chooses(self) -> bool:
        """Whether the objective takes the gradient through a part of the samples."""
        return getattr(self.objective, "gradient_samples", None) is not None

    @property
    def terms(self) -> tuple[str, ...]:
        """The loss and what it is made of, of several layers the KL of each too."""
        return ("loss", "reconstruction", "kl", *layer_terms(len(self.latent_sizes)))

    @property
    def random(self) -> RandomSpec:
        """Noise for each sample of q(z|x), numbers for pixels that are binarised anew at each use and for a choice of samples."""
        dynamic = self.objective.likelihood.binarization == "dynamic"
        pixels = {"pixels": (math.prod(self.image_shape),)} if dynamic else {}
        return RandomSpec(
            normal={"noise": (self.num_latent_samples, sum(self.latent_sizes))},
            uniform=pixels | ({"choice": ()} if self.chooses else {}),
        )

    @property
    def ylabel(self) -> str:
        """What the loss is; a pseudo-likelihood does not pass for a likelihood."""
        return bound_label(self.objective.likelihood)

    def loss(self, model: Callable, batch: Batch, optimizer: str) -> Terms:
        """The negative bound with a warm-up of its KL, and free bits."""
        weight = kl_weight(batch.step, self.kl_warmup_steps)
        choice = {"uniform": batch.random["choice"]} if self.chooses else {}
        return self._terms(model, batch, Stream.TRAINING_NOISE, weight, self.free_bits, **choice)

    def held_out_loss(self, model: Callable, batch: Batch) -> Terms:
        """The negative bound."""
        return self._terms(model, batch, Stream.VALIDATION_NOISE)

    def _terms(self, model, batch: Batch, stream: Stream, *weights: float, **choice: torch.Tensor) -> Terms:
        kind = self.objective.likelihood.binarization
        x = binarize(kind, batch.data, batch.random.get("pixels"), batch.rows, (self.seed, stream))
        return self.objective(model, x, batch.random["noise"].transpose(0, 1), *weights, **choice)

    def pipeline(self, module: torch.nn.Module) -> DiffusionPipeline:
        """The model as it is."""
        return self.pipeline_type(module)

    def preview(self, module: torch.nn.Module) -> torch.Tensor:
        """64 means of p(x|z)."""
        generator = seeded(module.device, self.seed, Stream.SAMPLES)
        return unit_to_uint8(self.pipeline(module)(PREVIEWS, generator, output_type="pt").images).cpu()


def make_task(
    config: TrainingConfig,
    module: Any,
    shape: tuple[int, int, int],
    latent_sizes: tuple[int, ...],
    pipeline_type: type[DiffusionPipeline],
) -> VAETask:
    """The task of the flags; `HfgenError` for more samples of q(z|x) than there is memory for, and for what cannot be sharded."""
    model = config.model
    check_samples_fit(config, module, shape, sum(latent_sizes))
    if model.objective == "dreg" and len(latent_sizes) > 1 and os.environ.get("ACCELERATE_USE_FSDP") == "true":
        # a sharded network gathers its own weights and forgets that they are to be constants
        raise HfgenError(
            "objective=dreg of several layers: not with --use_fsdp of accelerate launch, take iw or leave it out"
        )
    objective = OBJECTIVES[model.objective](module.likelihood)
    if model.gradient_samples is not None:
        objective = replace(objective, gradient_samples=model.gradient_samples)
    return VAETask(
        objective=objective,
        image_shape=shape,
        latent_sizes=latent_sizes,
        num_latent_samples=model.num_latent_samples,
        kl_warmup_steps=model.kl_warmup_steps,
        free_bits=model.free_bits,
        seed=config.optimization.seed,
        pipeline_type=pipeline_type,
    )


def check_objective(config: TrainingConfig) -> None:
    """Raise `HfgenError` for flags of the objective that do not go together."""
    model = config.model
    compiled = config.optimization.compile or os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() != "no"
    if compiled and model.objective == "dreg":
        # what is weighted is the gradient of z, which a compiled model keeps to itself
        raise HfgenError(
            "objective=dreg weights gradients inside of the model, where no compiler lets it: leave out --compile and "
            "--dynamo_backend of accelerate launch, or take iw"
        )
    chosen, samples = model.gradient_samples, model.num_latent_samples
    if chosen is not None and model.objective not in ("iw", "dreg"):
        raise HfgenError(
            f"gradient_samples={chosen}: not with objective={model.objective}, whose samples have no weights"
        )
    if chosen is not None and chosen > samples:
        raise HfgenError(f"gradient_samples={chosen}: there are num_latent_samples={samples}, take as many or fewer")
    if model.objective in ("iw", "dreg"):
        for name, what in (("kl_warmup_steps", "weight"), ("free_bits", "hold up")):
            value = getattr(model, name)
            if value:
                raise HfgenError(f"{name}={value}: the importance-weighted bound has no KL term to {what}; pass 0")
    elif model.free_bits and model.objective.startswith("score_function"):
        raise HfgenError(f"free_bits={model.free_bits}: not with objective={model.objective}, pass 0")


def check_samples_fit(config: TrainingConfig, module: Any, shape: tuple[int, int, int], latent_size: int) -> None:
    """Raise `HfgenError` for more samples of q(z|x) than there is memory for: each has a noise and the decoder's outputs."""
    samples, batch = config.model.num_latent_samples, config.optimization.train_batch_size
    values = latent_size + module.likelihood.channels * math.prod(shape)
    check_fits(
        samples * batch * values * FLOAT32,
        f"num_latent_samples={samples} of train_batch_size={batch}",
        "take fewer of either",
    )


def initial_config(
    model: Any,
    pretrained: Model | None,
    load: Callable[[str], dict[str, Any]] = load_vae_config,
    sizes: str = "latent_size",
) -> dict[str, Any]:
    """The config to build: a preset's, a file's, or that of a trained model, with what the flags change of it.

    Empty where none of these is named. `load` reads a config by its name; `sizes` is the flag of the latents' sizes.
    """
    if pretrained is None and model.model_config_name_or_path is None:
        return {}
    if pretrained is not None:
        config = {k: v for k, v in pretrained.module.config.items() if k != "_name_or_path"}
        config["_class_name"] = type(pretrained.module).__name__
    else:
        config = load(model.model_config_name_or_path)
    for name in (sizes, "likelihood", "gaussian_variance"):
        value = getattr(model, name)
        if value is not None:
            config[name] = value
    if model.latent_bound is not None:
        config["latent_bound"] = model.latent_bound or None
    return config


def initial_model(
    model: Any,
    config: dict[str, Any],
    images: TrainingSet,
    pretrained: Model | None,
    build: Callable[[dict[str, Any], int, int], Any] = build_vae,
    sizes: str = "latent_size",
) -> torch.nn.Module:
    """A new model that knows the images' mean, or one with the weights of a trained model.

    Raises `HfgenError` where these do not fit the images and flags.
    """
    vae = build(config, images.resolution, images.channels)
    if pretrained is None:
        vae.pixel_mean.copy_(images.pixel_mean())
        return vae
    pretrained.give_weights(
        vae,
        model.pretrained_model_name_or_path,
        f"--{sizes}, --likelihood, --gaussian_variance and --resolution",
    )
    return vae
