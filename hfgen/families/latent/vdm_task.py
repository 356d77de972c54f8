"""How a variational diffusion model of latents is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from hfgen.configs.training import TrainingConfig
from hfgen.core.errors import HfgenError
from hfgen.data.training_set import TrainingSet
from hfgen.drawing.draw import draw_samples
from hfgen.families.base import PREVIEWS
from hfgen.families.ddpm.flags import DiffusionSampling
from hfgen.families.latent.sampler import LatentSampler
from hfgen.families.latent.task import unclipped
from hfgen.families.vdm.flags import VDMFlags
from hfgen.families.vdm.task import VDMTask, initial_config, vdm_loss
from hfgen.models.latent_presets import LATENT_VDMS
from hfgen.pipelines.latent import LatentDiffusionPipeline
from hfgen.pipelines.pipeline_hfgen_vdm import VDMPipeline


@dataclass(frozen=True, kw_only=True)
class LatentVDMTask(VDMTask):
    """A `VDMTask` of latents, whose density is measured in bits per latent: no likelihood of pixels."""

    autoencoder: Any
    ylabel = "negative bound on the latents' density, bits per latent"

    def pipeline(self, module: torch.nn.Module) -> LatentDiffusionPipeline:
        """The chain of the schedule as it is."""
        stock = VDMPipeline(module).to_ddpm()
        return LatentDiffusionPipeline(self.autoencoder, stock.unet, unclipped(stock.scheduler), "latent_vdm")

    def preview(self, module: torch.nn.Module) -> torch.Tensor:
        """64 samples by the default solver."""
        samples = draw_samples(
            LatentSampler(self.pipeline(module), DiffusionSampling()),
            device=module.device,
            num_images=PREVIEWS,
            seed=self.seed,
            batch_size=self.batch_size,
            show_progress=False,
        )
        return samples.images


def initial_latent_config(model: VDMFlags) -> dict[str, Any]:
    """As `initial_config`, of a network that diffusers has; `HfgenError` for classes, and for another network."""
    if model.class_conditional:
        raise HfgenError(
            "class_conditional with --autoencoder: train a diffusion transformer, training/train_ddpm.py --autoencoder"
        )
    if model.prediction_type == "epsilon":
        raise HfgenError(
            "prediction_type=epsilon with --autoencoder: z is added to it, which stock networks do not, leave it out"
        )
    name = model.model_config_name_or_path
    if name in LATENT_VDMS:
        return {**LATENT_VDMS[name], **_chosen(model)}
    return initial_config(model)


def _chosen(model: VDMFlags) -> dict[str, Any]:
    names = ("gamma", "gamma_min", "gamma_max")
    found = {name: getattr(model, name) for name in names if getattr(model, name) is not None}
    low, high = found.get("gamma_min", -13.3), found.get("gamma_max", 5.0)
    if not low < high:
        raise HfgenError(f"gamma_min={low:g} is not below gamma_max={high:g}: gamma increases with t, swap them")
    return found


def make_latent_task(config: TrainingConfig, module: Any, images: TrainingSet) -> LatentVDMTask:
    """The task of the flags; `HfgenError` for a network that no stock pipeline has."""
    plain = not module.config.fourier_features and module.config.patch_size == 1
    if not plain or module.config.prediction_type != "v_prediction":
        raise HfgenError(
            "this network is none of diffusers': of latents take one with fourier_features=[], patch_size=1 and "
            'prediction_type="v_prediction", such as latent-7'
        )
    model = config.model
    return LatentVDMTask(
        objective=vdm_loss(module, model, continuous=True),
        shape=images.shape,
        num_inference_steps=model.vdm_num_inference_steps,
        batch_size=config.optimization.eval_batch_size,
        seed=config.optimization.seed,
        class_names=(),
        class_dropout=model.class_dropout,
        autoencoder=images.representation.autoencoder,
    )
