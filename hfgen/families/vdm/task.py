"""How a variational diffusion model is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from hfgen.configs.training import TrainingConfig
from hfgen.core.errors import HfgenError
from hfgen.core.media import unit_to_uint8
from hfgen.core.random import Stream, seeded
from hfgen.data.batch import Batch, RandomSpec
from hfgen.data.training_set import TrainingSet
from hfgen.families.base import PREVIEWS, OneOptimizer, Terms
from hfgen.families.model import Model
from hfgen.families.vdm.flags import VDMFlags
from hfgen.models.modeling_hfgen_vdm import VDMModel
from hfgen.models.vdm_presets import build_vdm, load_vdm_config
from hfgen.objectives.vdm import VDMLoss, decoder_reach
from hfgen.pipelines.pipeline_hfgen_vdm import VDMPipeline

GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
CHOSEN = ("gamma", "gamma_min", "gamma_max", "prediction_type")


@dataclass(frozen=True, kw_only=True)
class VDMTask(OneOptimizer):
    """The bound in bits/dim as the loss, ancestral samples as previews.

    Attributes:
        shape: (C, H, W) of the images.
        num_inference_steps, batch_size: of the previews.
        class_names: that the network is told; none: it is told nothing.
        class_dropout: share of the rows whose class is withheld.
    """

    objective: VDMLoss
    shape: tuple[int, ...]
    num_inference_steps: int
    batch_size: int
    seed: int
    class_names: tuple[str, ...]
    class_dropout: float
    terms = ("loss", "prior", "reconstruction", "diffusion")
    ylabel = "negative bound, bits/dim"

    @property
    def random(self) -> RandomSpec:
        """The noise of z_t and of z_0, a number for t, and of a model with classes one that decides whether it is told."""
        dropout: dict[str, tuple[int, ...]] = {"class_dropout": ()} if self.class_names else {}
        return RandomSpec(normal={"noise": self.shape, "decoder_noise": self.shape}, uniform={"time": (), **dropout})

    def loss(self, model: Callable, batch: Batch, optimizer: str) -> Terms:
        """The terms at times that the batch's rows share out evenly."""
        return self._terms(model, batch, batch.random["stratified"] % 1, self._condition(batch))

    def held_out_loss(self, model: Callable, batch: Batch) -> Terms:
        """The terms at times spread evenly over the images, whatever the batches."""
        times = ((batch.rows + 0.5) * GOLDEN_RATIO % 1).to(batch.random["noise"])
        cond = {"class_labels": batch.cond["class_labels"]} if self.class_names else {}
        return self._terms(model, batch, times, cond)

    def _condition(self, batch: Batch) -> Mapping[str, torch.Tensor]:
        if not self.class_names:
            return {}
        withheld = batch.random["class_dropout"] < self.class_dropout
        return {"class_labels": torch.where(withheld, len(self.class_names), batch.cond["class_labels"])}

    def _terms(self, model: Callable, batch: Batch, times: torch.Tensor, cond: Mapping[str, torch.Tensor]) -> Terms:
        noise, decoder_noise = batch.random["noise"], batch.random["decoder_noise"]
        nats = self.objective(model, batch.data, times=times, noise=noise, decoder_noise=decoder_noise, cond=cond)
        return {name: term / (math.prod(self.shape) * math.log(2)) for name, term in nats.items()}

    def pipeline(self, module: torch.nn.Module) -> VDMPipeline:
        """The network with its schedule and the names of the classes."""
        return VDMPipeline(module, list(self.class_names) or None)

    def preview(self, module: torch.nn.Module) -> torch.Tensor:
        """64 ancestral samples, of all classes in turn."""
        pipeline = self.pipeline(module)
        pipeline.set_progress_bar_config(leave=False, desc="samples")
        generator = seeded(module.device, self.seed, Stream.SAMPLES)
        images = []
        for first in range(0, PREVIEWS, self.batch_size):
            places = range(first, min(first + self.batch_size, PREVIEWS))
            wanted = [i % len(self.class_names) for i in places] if self.class_names else None
            images.append(
                pipeline(
                    len(places),
                    generator=generator,
                    num_inference_steps=self.num_inference_steps,
                    class_labels=wanted,
                    output_type="pt",
                ).images
            )
        return unit_to_uint8(torch.cat(images)).cpu()


def vdm_loss(module: VDMModel, chosen: VDMFlags, **of_decoder: Any) -> VDMLoss:
    """The bound of the network's schedule, in as many steps as were chosen, or in continuous time."""
    return VDMLoss(
        schedule=module.schedule,
        prediction_type=module.config.prediction_type,
        num_steps=chosen.vdm_num_steps if chosen.loss_type == "discrete" else None,
        **of_decoder,
    )


def make_task(config: TrainingConfig, module: Any, images: TrainingSet, class_names: list[str]) -> VDMTask:
    """The task of the flags; `HfgenError` for images that are not 8-bit."""
    raw = next(iter(images.train.batches([torch.arange(1)])))
    if raw.dtype != torch.uint8:
        raise HfgenError(f"training images of {raw.dtype}: the decoder is one over the 256 values of 8-bit images")
    model = config.model
    return VDMTask(
        objective=vdm_loss(module, model, reach=decoder_reach(module.config.gamma_min)),
        shape=images.shape,
        num_inference_steps=model.vdm_num_inference_steps,
        batch_size=config.optimization.eval_batch_size,
        seed=config.optimization.seed,
        class_names=tuple(class_names),
        class_dropout=model.class_dropout,
    )


def initial_config(model: VDMFlags, pretrained: Model | None = None) -> dict[str, Any]:
    """The config to build: a preset's, a file's, or that of a trained model, with what the flags change of it.

    Empty where none of these is named. Raises `HfgenError` for ends that are crossed.
    """
    if pretrained is not None:
        config = {k: v for k, v in pretrained.module.config.items() if not k.startswith("_")}
    elif model.model_config_name_or_path is None:
        config = {}
    else:
        config = load_vdm_config(model.model_config_name_or_path)
    config |= {name: getattr(model, name) for name in CHOSEN if getattr(model, name) is not None}
    low, high = config.get("gamma_min", -13.3), config.get("gamma_max", 5.0)
    if not low < high:
        raise HfgenError(f"gamma_min={low:g} is not below gamma_max={high:g}: gamma increases with t, swap them")
    return config


def initial_model(
    model: VDMFlags, config: dict[str, Any], images: TrainingSet, num_classes: int | None, pretrained: Model | None
) -> VDMModel:
    """A new model, or one with the weights of a trained one; `HfgenError` where these do not fit the images and flags."""
    vdm = build_vdm(config, images.resolution, images.channels, num_classes)
    if pretrained is not None:
        pretrained.give_weights(vdm, model.pretrained_model_name_or_path, "--gamma and the number of classes")
    return vdm
