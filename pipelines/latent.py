"""Diffusion in the latents of an autoencoder with any diffusers scheduler, saved as repositories that stock diffusers loads."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    DiTPipeline,
    DiTTransformer2DModel,
    ImagePipelineOutput,
    LDMPipeline,
    SchedulerMixin,
    UNet2DModel,
    VQModel,
)

from hfgen.data.latents import decoded
from hfgen.pipelines.denoising import (
    Generators,
    OnStepEnd,
    Predict,
    check_inputs,
    denoise,
    finish,
    initial_noise,
    set_timesteps,
)
from hfgen.pipelines.saving import without_origin

# of DiTPipeline, which knows no other
NULL_LABEL = 1000


class _LatentPipeline(DiffusionPipeline):
    """What both have: `autoencoder`, `unet` (the network), `scheduler`, and a family's name for their `model_index.json`."""

    family: str
    autoencoder: AutoencoderKL

    def _draw(
        self,
        predict: Predict,
        count: int,
        generator: Generators,
        num_inference_steps: int | None,
        eta: float,
        output_type: str,
        return_dict: bool,
        callback_on_step_end: OnStepEnd | None,
    ) -> ImagePipelineOutput | tuple:
        steps = num_inference_steps or min(1000, self.scheduler.config.num_train_timesteps)
        check_inputs(
            self, batch_size=count, generator=generator, num_inference_steps=steps, eta=eta, output_type=output_type
        )
        timesteps = set_timesteps(self, steps)
        latents = denoise(
            self,
            predict,
            initial_noise(self, count, generator),
            timesteps=timesteps,
            generator=generator,
            eta=eta,
            callback_on_step_end=callback_on_step_end,
        )
        return finish(self, decoded(latents, self.autoencoder), output_type, return_dict)


class LatentDiffusionPipeline(_LatentPipeline):
    """Images by a `UNet2DModel` of an autoencoder's latents (Rombach et al. 2022).

    What `save_pretrained` leaves is a stock repository: `DiffusionPipeline.from_pretrained` loads it as `LDMPipeline`.
    """

    def __init__(self, vqvae: AutoencoderKL, unet: UNet2DModel, scheduler: SchedulerMixin, family: str = "latent_ddpm"):
        super().__init__()
        self.register_modules(vqvae=vqvae, unet=unet, scheduler=scheduler)
        self.family = family

    @property
    def autoencoder(self) -> AutoencoderKL:
        """In the slot that LDMPipeline has for it."""
        return self.vqvae

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: Generators = None,
        num_inference_steps: int | None = None,
        eta: float = 0.0,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: OnStepEnd | None = None,
    ) -> ImagePipelineOutput | tuple:
        """Sample `batch_size` images; arguments and errors as those of `UnconditionalDiffusionPipeline`, "latents" being latents."""

        def predict(x_t: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
            return self.unet(x_t, timestep).sample

        return self._draw(
            predict, batch_size, generator, num_inference_steps, eta, output_type, return_dict, callback_on_step_end
        )

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Save a stock `LDMPipeline` repository; arguments as in `DiffusionPipeline.save_pretrained`."""
        # diffusers' hint is of the model that the paper's own had; its call asks for decode and scaling_factor
        vqvae = cast(VQModel, without_origin(self.vqvae))
        stock = LDMPipeline(vqvae, without_origin(self.unet), self.scheduler)
        stock.register_to_config(_hfgen_family=self.family)
        stock.save_pretrained(os.fspath(save_directory), push_to_hub=push_to_hub, **kwargs)


class LatentTransformerPipeline(_LatentPipeline):
    """Images of classes by a `DiTTransformer2DModel` of an autoencoder's latents (Peebles & Xie 2023), with classifier-free guidance.

    What `save_pretrained` leaves is a stock repository: `DiffusionPipeline.from_pretrained` loads it as `DiTPipeline`.
    """

    family = "dit"

    def __init__(
        self,
        transformer: DiTTransformer2DModel,
        vae: AutoencoderKL,
        scheduler: SchedulerMixin,
        class_names: Sequence[str],
    ):
        super().__init__()
        self.register_modules(transformer=transformer, vae=vae, scheduler=scheduler)
        self.class_names = list(class_names)

    @property
    def components(self) -> dict[str, Any]:
        """Without the names, which are none."""
        return {"transformer": self.transformer, "vae": self.vae, "scheduler": self.scheduler}

    @property
    def autoencoder(self) -> AutoencoderKL:
        """In the slot that DiTPipeline has for it."""
        return self.vae

    @property
    def unet(self) -> Any:
        """The network as what draws with a UNet asks one."""
        config = self.transformer.config
        asked = SimpleNamespace(
            in_channels=config.in_channels, sample_size=config.sample_size, time_embedding_type="positional"
        )
        return SimpleNamespace(config=asked, dtype=self.transformer.dtype, forward=self.transformer.forward)

    def label_numbers(self, class_labels: Any) -> list[int]:
        """Numbers of classes given by number or name; `ValueError` for one that there is not, and for none."""
        one = isinstance(class_labels, str) or not isinstance(class_labels, Iterable)
        labels = [class_labels] if one else list(class_labels)
        if not labels:
            raise ValueError("no class_labels: pass one for each image")
        return [self._label_number(label) for label in labels]

    def _label_number(self, label: Any) -> int:
        names = self.class_names
        if label in names:
            return names.index(label)
        if str(label).isdecimal() and int(label) < len(names):
            return int(label)
        raise ValueError(f"class label {label!r}: use 0..{len(names) - 1}, or a name of {', '.join(names)}")

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Any,
        guidance_scale: float = 1.0,
        generator: Generators = None,
        num_inference_steps: int | None = None,
        eta: float = 0.0,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: OnStepEnd | None = None,
    ) -> ImagePipelineOutput | tuple:
        """Draw an image for each label; arguments and errors as those of `ClassConditionalDDPMPipeline`, "latents" being latents."""
        labels = torch.tensor(self.label_numbers(class_labels), device=self._execution_device)

        def predict(x_t: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
            return self._guided(x_t, timestep, labels, guidance_scale)

        return self._draw(
            predict, len(labels), generator, num_inference_steps, eta, output_type, return_dict, callback_on_step_end
        )

    def _guided(
        self, x_t: torch.Tensor, timestep: torch.Tensor, labels: torch.Tensor, guidance_scale: float
    ) -> torch.Tensor:
        null = torch.full_like(labels, NULL_LABEL)
        if guidance_scale in (0, 1):
            return self._predict(x_t, timestep, labels if guidance_scale else null)
        both = self._predict(torch.cat([x_t, x_t]), timestep, torch.cat([labels, null]))
        told, untold = both.chunk(2)
        return untold + guidance_scale * (told - untold)

    def _predict(self, x_t: torch.Tensor, timestep: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        timesteps = timestep.reshape(-1).expand(len(x_t))
        return self.transformer(x_t, timestep=timesteps, class_labels=labels).sample

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Save a stock `DiTPipeline` repository; arguments as in `DiffusionPipeline.save_pretrained`."""
        stock = DiTPipeline(without_origin(self.transformer), without_origin(self.vae), self.scheduler)
        id2label = {str(number): name for number, name in enumerate(self.class_names)}
        stock.register_to_config(id2label=id2label, _hfgen_family=self.family)
        stock.save_pretrained(os.fspath(save_directory), push_to_hub=push_to_hub, **kwargs)
