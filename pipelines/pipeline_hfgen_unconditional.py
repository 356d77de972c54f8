"""Unconditional image generation with any diffusers scheduler, saved as a stock `DDPMPipeline` repository."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from diffusers import DDPMPipeline, ImagePipelineOutput

from hfgen.pipelines.diffusion_editing import DiffusionEditing
from hfgen.pipelines.pipeline_hfgen_class_conditional import (
    check_inputs,
    denoise,
    finish,
    initial_noise,
    is_stock,
    save_with_code,
    scheduler_to_save,
    set_timesteps,
    without_origin,
)


class UnconditionalDiffusionPipeline(DiffusionEditing, DDPMPipeline):
    """Images from noise: a `UNet2DModel` and any diffusers scheduler whose model predicts epsilon, x_0 or v.

    With a `DDPMScheduler` this is algorithm 2 of Ho, Jain, Abbeel, Denoising Diffusion Probabilistic Models (2020),
    with a `DDIMScheduler` equation 12 of Song, Meng, Ermon (2021). What `save_pretrained` and `push_to_hub` leave is
    a stock repository: `DiffusionPipeline.from_pretrained` loads it as `DDPMPipeline`, without this class.
    """

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        num_inference_steps: int | None = None,
        eta: float = 0.0,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable | None = None,
    ) -> ImagePipelineOutput | tuple:
        """Sample `batch_size` images.

        Args:
            generator: one for the batch, or a list of one for each image: an image then depends on its own alone.
            num_inference_steps: 1..T; by default min(1000, T) with T = `scheduler.config.num_train_timesteps`.
            eta: the share of fresh noise, 0 (DDIM) to 1 (DDPM), for a scheduler whose `step` takes it.
            output_type: "pil", "np" of (B, H, W, C) or "pt" of (B, C, H, W); values of both in [0, 1].
            callback_on_step_end: called after every step as (pipeline, step, timestep, tensors) with the tensors
                "latents", x_{t-1} of (B, C, H, W), and "pred_original_sample", x_0 as predicted or None.
                A "latents" in the dict that it returns replaces x_{t-1}.

        Returns an `ImagePipelineOutput` with `images`, or the tuple (images,).

        Raises `ValueError` for an argument out of its range, for eta that the scheduler cannot use, and for a
        scheduler with fractional timesteps on a UNet that has an embedding for each integer timestep.
        """
        if num_inference_steps is None:
            num_inference_steps = min(1000, self.scheduler.config.num_train_timesteps)
        self.check_inputs(batch_size, generator, num_inference_steps, eta, output_type)
        timesteps = self.set_timesteps(num_inference_steps)
        image = initial_noise(self, batch_size, generator)
        image = denoise(self, self._predict, image, timesteps, generator, eta, callback_on_step_end)
        return finish(self, image, output_type, return_dict)

    def _predict(self, x_t, timestep):
        return self.unet(x_t, timestep).sample

    def check_inputs(self, batch_size, generator, num_inference_steps, eta, output_type):
        """Raise `ValueError` for arguments of `__call__` that cannot be used."""
        check_inputs(self, batch_size, generator, num_inference_steps, eta, output_type)

    def set_timesteps(self, num_inference_steps: int) -> torch.Tensor:
        """Set the scheduler to `num_inference_steps` and return its timesteps, on the CPU, one for each UNet call.

        Raises `ValueError` for fractional timesteps on a UNet with a learned embedding of integer ones.
        """
        return set_timesteps(self, num_inference_steps)

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs):
        """Save a stock `DDPMPipeline` repository; arguments as in `DiffusionPipeline.save_pretrained`.

        A network that predicts mu needs a scheduler that diffusers has not: its code is saved too.

        Raises `ValueError` for a scheduler that diffusers does not have and cannot stand in for.
        """
        stock = DDPMPipeline(without_origin(self.unet), scheduler_to_save(self.scheduler))
        if is_stock(type(stock.scheduler)):
            stock.save_pretrained(os.fspath(save_directory), push_to_hub=push_to_hub, **kwargs)
        else:
            index = {"_class_name": "DDPMPipeline"}
            save_with_code(self, stock, stock.save_pretrained, save_directory, index, [], push_to_hub, kwargs)
