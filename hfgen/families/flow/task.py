"""How a flow is trained."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from hfgen.configs.training import TrainingConfig
from hfgen.core.errors import HfgenError
from hfgen.data.batch import Batch, RandomSpec
from hfgen.data.training_set import TrainingSet
from hfgen.families.base import PREVIEWS, OneOptimizer, Terms
from hfgen.families.flow.figures import drawn
from hfgen.families.flow.flags import FlowFlags
from hfgen.families.model import Model
from hfgen.models.flow_presets import build_flow, load_flow_config
from hfgen.models.modeling_hfgen_flow import LEVELS, FlowModel
from hfgen.pipelines.pipeline_hfgen_flow import FlowPipeline

COUNTED, COUNTED_AT_ONCE = 10_000, 500


@dataclass(frozen=True, kw_only=True)
class FlowTask(OneOptimizer):
    """The bound of dequantised pixels as the loss.

    Attributes:
        shape: (C, H, W) of the images.
        variational: whether the noise is one that a network shapes.
    """

    shape: tuple[int, ...]
    variational: bool
    seed: int
    terms = ("loss",)
    ylabel = "negative bound, bits/dim"

    @property
    def random(self) -> RandomSpec:
        """A number for each pixel value."""
        noise = {"noise": self.shape}
        return RandomSpec(normal=noise) if self.variational else RandomSpec(uniform=noise)

    def loss(self, model: Callable, batch: Batch, optimizer: str) -> Terms:
        """-(log p(x + n) - log q(n|x)) with one noise for each image."""
        return self._terms(model, batch)

    def held_out_loss(self, model: Callable, batch: Batch) -> Terms:
        """The same."""
        return self._terms(model, batch)

    def _terms(self, model: Callable, batch: Batch) -> Terms:
        return {"loss": -model(batch.data, batch.random["noise"]) / (math.prod(self.shape) * math.log(2))}

    def pipeline(self, module: torch.nn.Module) -> FlowPipeline:
        """The model as it is."""
        return FlowPipeline(module)

    def preview(self, module: torch.nn.Module) -> torch.Tensor:
        """64 samples."""
        return drawn(self.pipeline(module), PREVIEWS, self.seed)


def make_task(config: TrainingConfig, module: Any, images: TrainingSet) -> FlowTask:
    """The task of the flags; `HfgenError` for images that are not 8-bit."""
    raw = next(iter(images.train.batches([torch.arange(1)])))
    if raw.dtype != torch.uint8:
        raise HfgenError(f"training images of {raw.dtype}: a flow dequantises the 256 values of 8-bit images")
    return FlowTask(
        shape=images.shape,
        variational=module.config.dequantization == "variational",
        seed=config.optimization.seed,
    )


def initial_config(model: FlowFlags, pretrained: Model | None = None) -> dict[str, Any]:
    """The config to build: a preset's, a file's, or that of a trained model, with what the flags change of it.

    Empty where none of these is named.
    """
    if pretrained is not None:
        config = {k: v for k, v in pretrained.module.config.items() if not k.startswith("_")}
    elif model.model_config_name_or_path is None:
        config = {}
    else:
        config = load_flow_config(model.model_config_name_or_path)
    return config | ({} if model.dequantization is None else {"dequantization": model.dequantization})


def initial_model(
    config: TrainingConfig, model_config: dict[str, Any], images: TrainingSet, pretrained: Model | None
) -> FlowModel:
    """A new model that knows the images' grey levels, or one with the weights of a trained model; `HfgenError` where these do not fit the images and flags."""
    flow = build_flow(model_config, images.resolution, images.channels)
    if pretrained is None:
        flow.start_from(histogram(images))
    else:
        pretrained.give_weights(flow, config.model.pretrained_model_name_or_path, "--dequantization and --resolution")
    return flow


def histogram(images: TrainingSet) -> torch.Tensor:
    """How often each pixel has each grey level, (256, C, H, W), in the training images; in the first 10,000 of them."""
    rows = torch.arange(min(COUNTED, len(images.train))).split(COUNTED_AT_ONCE)
    size = math.prod(images.shape)
    counts = torch.zeros(LEVELS * size, dtype=torch.float64)
    for pixels in images.train.batches(rows):
        places = pixels.flatten(1).cpu().long() * size + torch.arange(size)
        counts += torch.bincount(places.flatten(), minlength=LEVELS * size)
    return counts.view(LEVELS, *images.shape)
