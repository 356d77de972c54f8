"""Pipelines of latents from a folder, and what a training of them starts from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL

from hfgen.configs.training import TrainingConfig
from hfgen.core.errors import HfgenError
from hfgen.core.resume import tensors_digest
from hfgen.data.latents import factor
from hfgen.families.autoencoder.likelihood import KEY, likelihood_of
from hfgen.families.autoencoder.loading import load_autoencoder
from hfgen.families.base import Family
from hfgen.families.model import Model


def load_part(folder: Path, subfolder: str, variant: str | None) -> AutoencoderKL:
    """The autoencoder of a pipeline's folder; `HfgenError` for a likelihood that cannot be."""
    found = AutoencoderKL.from_pretrained(folder, subfolder=subfolder, use_safetensors=True, variant=variant)
    likelihood_of(found)
    return found.eval()


def described(autoencoder: Any) -> dict[str, Any]:
    """What results depend on of an autoencoder: config, likelihood, and a digest of the weights."""
    config = {k: v for k, v in autoencoder.config.items() if not k.startswith("_")}
    return {
        **config,
        "likelihood": autoencoder.config.get(KEY) or {},
        "weights": tensors_digest(autoencoder.state_dict()),
    }


def image_config(config: TrainingConfig, model_config: Mapping[str, Any]) -> tuple[int, int | None]:
    """Channels of the autoencoder's images, and the side that a network of a fixed one was made for."""
    autoencoder = load_autoencoder(config.model.autoencoder)
    side = model_config.get("sample_size")
    return autoencoder.config.in_channels, side and side * factor(autoencoder)


def check_latent_start(family: Family, model: Model, config: TrainingConfig) -> None:
    """Raise `HfgenError` for a model that is none of latents of this kind, or of those of another autoencoder."""
    given = config.model.pretrained_model_name_or_path
    if model.family.name != family.name:
        raise HfgenError(
            f"{given} is a {model.family.title} model: this needs a {family.title}, such as {config.script} --autoencoder leaves"
        )
    ours = load_autoencoder(config.model.autoencoder)
    if tensors_digest(ours.state_dict()) != tensors_digest(model.pipeline.autoencoder.state_dict()):
        raise HfgenError(
            f"{given} is of other latents than those of --autoencoder {config.model.autoencoder}: pass {given} there too"
        )
