"""Diffusion models trained on from where others, of hfgen or of the Hub, have come to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from diffusers import SchedulerMixin, UNet2DModel

from hfgen.configs.training import TrainingConfig
from hfgen.core.errors import HfgenError, one_line
from hfgen.data.training_set import TrainingSet
from hfgen.families.ddpm.flags import DDPMFlags
from hfgen.families.model import Model
from hfgen.models import build_unet
from hfgen.models.configs import image_channels, square_size
from hfgen.schedulers.noise import noise_scheduler
from hfgen.schedulers.own import goes_by_betas

NEW_PROCESS: dict[str, Any] = {
    "ddpm_num_steps": 1000,
    "ddpm_beta_schedule": "squaredcos_cap_v2",
    "ddpm_variance_type": "fixed_small",
    "prediction_type": "v_prediction",
}
OF_BETAS = ("ddpm_num_steps", "ddpm_beta_schedule")
CHOICES = {
    "ddpm_beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"),
    "ddpm_variance_type": ("fixed_small", "fixed_large", "learned_range"),
    "prediction_type": ("epsilon", "sample", "v_prediction", "mu"),
}
CLASSES = "class_embedding.weight"


def resolved_flags(model: DDPMFlags, pretrained: Model | None) -> DDPMFlags:
    """The flags with a process: what is not given is the pretrained model's, or a new one's.

    Raises `HfgenError` for a pretrained model whose process no flags say, unless they name another.
    """
    given = {name: getattr(model, name) for name in NEW_PROCESS if getattr(model, name) is not None}
    if pretrained is None:
        return replace(model, **{**NEW_PROCESS, **given})
    scheduler = pretrained.pipeline.scheduler
    values = {**process_of(scheduler), **given}
    new_betas = model.rescale_betas_zero_snr or any(name in given for name in OF_BETAS)
    if not new_betas:
        values["rescale_betas_zero_snr"] = bool(scheduler.config.get("rescale_betas_zero_snr"))
    for name, choices in CHOICES.items():
        if values[name] not in choices:
            raise _unknown(pretrained, f"{name}={one_line(repr(values[name]), 60)}", name)
    resolved = replace(model, **values)
    if not new_betas and not _same_betas(resolved, scheduler):
        raise _unknown(pretrained, "betas that are none of hfgen's schedules", "ddpm_beta_schedule")
    return resolved


def process_of(scheduler: SchedulerMixin) -> dict[str, Any]:
    """In the words of the flags, as far as its config has it."""
    config = scheduler.config
    return {
        "ddpm_num_steps": config.get("num_train_timesteps") or NEW_PROCESS["ddpm_num_steps"],
        "ddpm_beta_schedule": config.get("beta_schedule"),
        "ddpm_variance_type": (config.get("variance_type") or "fixed_small").removesuffix("_log"),
        "prediction_type": config.get("prediction_type") or "epsilon",
    }


def _same_betas(model: DDPMFlags, scheduler: SchedulerMixin) -> bool:
    if not goes_by_betas(scheduler):
        return False
    try:
        ours = noise_scheduler(
            model.ddpm_beta_schedule,
            model.ddpm_num_steps,
            model.prediction_type,
            model.ddpm_variance_type,
            model.rescale_betas_zero_snr,
        )
    except ValueError:
        return False
    # float32 sums of logarithms in another order
    return torch.allclose(ours.alphas_cumprod.double(), scheduler.alphas_cumprod.double(), rtol=1e-4, atol=1e-7)


def _unknown(pretrained: Model, what: str, flag: str) -> HfgenError:
    return HfgenError(
        f"{pretrained.name} has a {type(pretrained.pipeline.scheduler).__name__} with {what}: pass --{flag} to train its network "
        "with another process"
    )


def check_start(model: Model, config: TrainingConfig, with_classes: bool) -> None:
    """Raise `HfgenError` for a model that is no `UNet2DModel` with a scheduler, or is told classes where nobody tells any."""
    given = config.model.pretrained_model_name_or_path
    parts = {
        name for name, part in model.pipeline.components.items() if isinstance(part, (torch.nn.Module, SchedulerMixin))
    }
    if parts != {"unet", "scheduler"} or not isinstance(model.module, UNet2DModel):
        raise HfgenError(
            f"{given} is a {model.family.title} model: a training goes on from a UNet2DModel with its scheduler, such as "
            f"{config.script} leaves"
        )
    if model.module.config.num_class_embeds is not None and not with_classes:
        raise HfgenError(f"{given} is told classes: add --class_conditional, and --label_column if it is not found")


def pretrained_config(model: Model) -> dict[str, Any]:
    """The network's config without its classes; `HfgenError` for images that are no squares, or neither grey nor coloured."""
    config = {k: v for k, v in model.module.config.items() if not k.startswith("_")}
    place = f"{model.name}: its unet"
    config["in_channels"] = image_channels(config["in_channels"], place)
    config["sample_size"] = square_size(config["sample_size"], place)
    return {**config, "num_class_embeds": None}


def pretrained_unet(
    model: DDPMFlags, config: dict[str, Any], images: TrainingSet, num_classes: int | None, pretrained: Model
) -> UNet2DModel:
    """A network for these images and classes with the weights of the pretrained one.

    Classes of another number all begin as the one that stands for none, as the mean of the classes where there is no such one,
    and without any effect in a network that was told none.

    Raises `HfgenError` where the weights do not fit the flags, and as `build_unet`.
    """
    unet = build_unet(
        config,
        resolution=images.resolution,
        channels=images.channels,
        num_train_timesteps=model.ddpm_num_steps,
        learned_variance=model.ddpm_variance_type == "learned_range",
        num_classes=num_classes,
    )
    weights = dict(pretrained.module.state_dict())
    if num_classes is not None:
        weights[CLASSES] = _class_rows(weights.get(CLASSES), unet.class_embedding.weight, pretrained)
    try:
        unet.load_state_dict(weights)
    except RuntimeError as error:
        raise HfgenError(
            f"pretrained_model_name_or_path={model.pretrained_model_name_or_path!r} has weights of other shapes than the flags "
            f"ask for ({one_line(error, 200)}): leave --ddpm_variance_type and --ddpm_num_steps as they are there"
        ) from error
    return unet


def _class_rows(found: torch.Tensor | None, wanted: torch.Tensor, pretrained: Model) -> torch.Tensor:
    if found is None:
        return torch.zeros_like(wanted)
    knows_none = len(found) == len(pretrained.pipeline.class_names) + 1
    if knows_none and found.shape == wanted.shape:
        return found
    return (found[-1] if knows_none else found.mean(0)).expand_as(wanted).clone()
