"""Denoising diffusion models (Ho et al. 2020): any `UNet2DModel` with a DDPM-like scheduler of diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from hfgen.families.base import Family
from hfgen.families.ddpm.flags import DDPMFlags, DiffusionLikelihood, DiffusionSampling

POSTERIOR_MEAN = "PosteriorMeanDDPMScheduler"


class DDPM(Family):
    """An unconditional diffusion model. Each method imports what it needs: a command line has the flags at once."""

    name = "ddpm"
    title = "diffusion"
    network = "unet"
    model_flags = DDPMFlags
    sampling_options = DiffusionSampling
    likelihood_options = DiffusionLikelihood
    can_compile = True
    own_code: ClassVar[Mapping[str, str]] = {POSTERIOR_MEAN: "scheduling_hfgen_posterior_mean"}

    def claims(self, index):
        """A repository of a `UNet2DModel` and a scheduler alone, whatever its pipeline is called, unless it brings that itself."""
        parts = {k: v[1] for k, v in index.items() if isinstance(v, list) and len(v) == 2 and v[1] is not None}
        parts.pop("_class_name", None)
        named_by_diffusers = not isinstance(index.get("_class_name"), list)
        return named_by_diffusers and set(parts) == {"unet", "scheduler"} and parts["unet"] == "UNet2DModel"

    def files(self, index):
        return ("scheduler/scheduler_config.json", "unet/config.json", "unet/diffusion_pytorch_model*.safetensors")

    def for_repository(self, folder: Path, index: Mapping[str, Any]):
        from hfgen.families.ddpm.loading import family_name, is_labelled
        from hfgen.families.registry import FAMILIES, get_family

        name = "labelled_ddpm" if is_labelled(folder) else family_name(folder)
        family = get_family(name) if name in FAMILIES else self
        return family if isinstance(family, DDPM) else self

    def load(self, folder: Path, index: Mapping[str, Any], variant: str | None):
        from hfgen.families.ddpm.loading import load_unconditional

        return load_unconditional(folder, index, variant)

    def configs(self, pipeline):
        return {**super().configs(pipeline), "scheduler": pipeline.scheduler.config}

    def for_training(self, config):
        from hfgen.families.registry import get_family

        if config.model.autoencoder is not None:
            return get_family("dit" if config.model.class_conditional else "latent_ddpm")
        return get_family("class_conditional_ddpm") if config.model.class_conditional else self

    def check_pretrained(self, model, config):
        from hfgen.families.ddpm.pretrained import check_start

        check_start(model, config, with_classes=config.model.class_conditional)

    def resolved(self, config, pretrained):
        from hfgen.families.ddpm.pretrained import resolved_flags

        return replace(config, model=resolved_flags(config.model, pretrained))

    def presets(self):
        from hfgen.models.noise_predictor import UNETS_FOR

        return UNETS_FOR

    def model_config(self, config, pretrained):
        from hfgen.families.ddpm.pretrained import pretrained_config
        from hfgen.families.ddpm.task import make_objective, make_scheduler
        from hfgen.models import load_unet_config

        make_objective(config.model, make_scheduler(config.model))
        if pretrained is not None:
            return pretrained_config(pretrained)
        name = config.model.model_config_name_or_path
        return {} if name is None else load_unet_config(name)

    def build(self, config, model_config, images, pretrained):
        from hfgen.families.ddpm.pretrained import pretrained_unet
        from hfgen.models import build_unet

        if pretrained is not None:
            return pretrained_unet(config.model, model_config, images, self.num_classes(images), pretrained)
        return build_unet(
            model_config,
            resolution=images.resolution,
            channels=images.channels,
            num_train_timesteps=config.model.ddpm_num_steps,
            learned_variance=config.model.ddpm_variance_type == "learned_range",
            num_classes=self.num_classes(images),
        )

    def num_classes(self, images) -> int | None:
        """How many classes the network is told; None: none at all."""
        return None

    def task(self, config, module, images):
        from hfgen.families.ddpm.task import DDPMTask, task_settings

        return DDPMTask(**task_settings(config, images))

    def sampler(self, pipeline, options, compile=False):
        from hfgen.families.ddpm.sampler import DiffusionSampler

        return DiffusionSampler(pipeline, options, compile)

    def likelihood(self, pipeline, data, settings):
        from hfgen.families.ddpm.bound import check_first_timestep, evaluate_bound

        check_first_timestep(pipeline.unet)
        return evaluate_bound(pipeline.unet, pipeline.scheduler, data, settings)

    def plot_likelihood(self, result, path):
        if result.likelihood is None or result.likelihood.terms is None:
            return False
        result.plot(path)
        return True

    def card(self, pipeline, name, training, results):
        from hfgen.families.ddpm.card import diffusion_card

        return diffusion_card(pipeline, name, results)

    def figures(self, pipeline, data, out, seed, training: Path | None):
        from hfgen.families.ddpm.figures import save_diffusion_figures

        return save_diffusion_figures(self, pipeline, out, seed, training)
