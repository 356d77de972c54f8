"""How diffusion models of latents are trained: as those of images, on other rows and with another pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import SchedulerMixin

from hfgen.configs.training import TrainingConfig
from hfgen.core.errors import HfgenError
from hfgen.data.batch import Batch, RandomSpec
from hfgen.data.training_set import TrainingSet
from hfgen.families.ddpm.flags import ClassConditionalSampling, DDPMFlags, DiffusionSampling
from hfgen.families.ddpm.sampler import DiffusionSampler
from hfgen.families.ddpm.task import DDPMTask, make_scheduler, task_settings
from hfgen.families.latent.sampler import LatentClassSampler, LatentSampler
from hfgen.pipelines.latent import NULL_LABEL, LatentDiffusionPipeline, LatentTransformerPipeline
from hfgen.pipelines.saving import scheduler_to_save

STOCK_ONLY = {
    "prediction_type": ("mu", "diffusers has no scheduler for it: use v_prediction, epsilon or sample"),
    "ddpm_variance_type": (
        "learned_range",
        "stock pipelines of latents take no learned variance: use fixed_small or fixed_large",
    ),
}


def check_stock(model: DDPMFlags) -> None:
    """Raise `HfgenError` for what no stock pipeline of latents draws."""
    for name, (value, way_out) in STOCK_ONLY.items():
        if getattr(model, name) == value:
            raise HfgenError(f"{name}={value} with --autoencoder: {way_out}")


@dataclass(frozen=True, kw_only=True)
class LatentDDPMTask(DDPMTask):
    """A `DDPMTask` of an autoencoder's latents."""

    autoencoder: Any

    def pipeline(self, module: torch.nn.Module) -> LatentDiffusionPipeline:
        """The network with the autoencoder and its scheduler."""
        return LatentDiffusionPipeline(self.autoencoder, module, self.scheduler)

    def preview_sampler(self, module: torch.nn.Module) -> DiffusionSampler:
        """What draws the previews."""
        return LatentSampler(self.pipeline(module), DiffusionSampling(**self.preview_options))


@dataclass(frozen=True, kw_only=True)
class DiTTask(DDPMTask):
    """A `DDPMTask` of latents whose network is told the class, which is withheld from a share `class_dropout` of the rows."""

    autoencoder: Any
    class_names: tuple[str, ...]
    class_dropout: float

    @property
    def random(self) -> RandomSpec:
        """Those of a `DDPMTask`, and a number that decides whether the class is withheld."""
        return super().random | RandomSpec(uniform={"class_dropout": ()})

    def condition(self, batch: Batch) -> Mapping[str, torch.Tensor]:
        """The classes, or the label that stands for none."""
        withheld = batch.random["class_dropout"] < self.class_dropout
        return {"class_labels": torch.where(withheld, NULL_LABEL, batch.cond["class_labels"])}

    def held_out_condition(self, batch: Batch) -> Mapping[str, torch.Tensor]:
        """The classes of the images."""
        return {"class_labels": batch.cond["class_labels"]}

    def _losses(
        self, model: Callable, batch: Batch, timesteps: torch.Tensor, cond: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        def named(x_t: torch.Tensor, t: torch.Tensor, **more: Any) -> Any:
            return model(x_t, timestep=t, **more)

        return super()._losses(named, batch, timesteps, cond)

    def pipeline(self, module: torch.nn.Module) -> LatentTransformerPipeline:
        """The network with the autoencoder, its scheduler and the names of the classes."""
        return LatentTransformerPipeline(module, self.autoencoder, self.scheduler, self.class_names)

    def preview_sampler(self, module: torch.nn.Module) -> DiffusionSampler:
        """Of the classes in turn."""
        return LatentClassSampler(self.pipeline(module), ClassConditionalSampling(**self.preview_options))


def latent_settings(config: TrainingConfig, images: TrainingSet) -> dict[str, Any]:
    """The attributes of a task of latents, whose x_0 no scheduler may clip to [-1, 1]."""
    settings = task_settings(config, images)
    return {
        **settings,
        "scheduler": unclipped(make_scheduler(config.model)),
        "autoencoder": images.representation.autoencoder,
    }


def unclipped(scheduler: SchedulerMixin) -> SchedulerMixin:
    """The scheduler of diffusers, without clipping."""
    stock = scheduler_to_save(scheduler)
    stock.register_to_config(clip_sample=False)
    return stock
