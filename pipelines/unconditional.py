"""Unconditional image generation with any diffusers scheduler, saved as a stock `DDPMPipeline` repository."""

from __future__ import annotations

import os
from typing import Any

import torch
from diffusers import DDPMPipeline, ImagePipelineOutput

from hfgen.pipelines.denoising import (
    Generators,
    OnStepEnd,
    check_inputs,
    check_output_type,
    denoise,
    finish,
    image_shape,
    initial_noise,
    set_timesteps,
)
from hfgen.pipelines.editing import ends_to_tensors, repaint, walk_between
from hfgen.pipelines.inputs import images_to_tensor
from hfgen.pipelines.saving import is_stock, save_with_code, scheduler_to_save, without_origin


class UnconditionalDiffusionPipeline(DDPMPipeline):
    """Images from noise: a `UNet2DModel` and any diffusers scheduler whose model predicts epsilon, x_0 or v.

    With a `DDPMScheduler` this is algorithm 2 of Ho, Jain, Abbeel, Denoising Diffusion Probabilistic Models (2020),
    with a `DDIMScheduler` equation 12 of Song, Meng, Ermon (2021). What `save_pretrained` and `push_to_hub` leave is
    a stock repository: `DiffusionPipeline.from_pretrained` loads it as `DDPMPipeline`, without this class.
    """

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
        check_inputs(
            self,
            batch_size=batch_size,
            generator=generator,
            num_inference_steps=num_inference_steps,
            eta=eta,
            output_type=output_type,
        )
        timesteps = set_timesteps(self, num_inference_steps)
        image = denoise(
            self,
            self._predict,
            initial_noise(self, batch_size, generator),
            timesteps=timesteps,
            generator=generator,
            eta=eta,
            callback_on_step_end=callback_on_step_end,
        )
        return finish(self, image, output_type, return_dict)

    @torch.no_grad()
    def inpaint(
        self,
        images: Any,
        mask: Any,
        num_inference_steps: int = 250,
        jump_length: int = 10,
        jump_n_sample: int = 10,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """Paint anew where `mask` is 1 (white), in keeping with the rest, which stays as it is (RePaint).

        Args:
            images: as `images_to_tensor` takes them: PIL images, arrays or tensors, uint8 or in [0, 1].
            mask: as `images` of grey, one for all or one for each; 0.5 and above is painted.
            num_inference_steps: 1..T denoising steps; jumps come on top.
            jump_length, jump_n_sample: after every `jump_length` steps go back as many, `jump_n_sample` - 1 times, so that
                what is painted and what is kept come to agree. Network evaluations: about steps * jump_n_sample.

        Raises `ValueError` for images or masks of another size and numbers out of range.

        Source: Lugmayr et al. 2022, algorithm 1 and appendix B.
        """
        check_output_type(output_type)
        image = repaint(
            self,
            self._predict,
            images_to_tensor(images, image_shape(self)),
            mask,
            num_inference_steps=num_inference_steps,
            jump_length=jump_length,
            jump_n_sample=jump_n_sample,
            generator=generator,
        )
        return finish(self, image, output_type, return_dict)

    @torch.no_grad()
    def interpolate(
        self,
        a: Any,
        b: Any,
        steps: int = 8,
        strength: float = 0.5,
        num_inference_steps: int | None = None,
        generator: torch.Generator | None = None,
        eta: float = 0.0,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """`steps` images from `a` to `b`: both are noised to x_t with the same noise, mixed linearly and denoised.

        Args:
            a, b: as many images each; of several the walks come one after another, len(a) * steps images.
            strength: t / T, above 0 to 1. Little keeps to the two images, as in a cross-fade; much gives images that have less
                to do with them. All of a walk share the noise of its x_t.
            num_inference_steps: of the whole chain, of which the part below t is run; by default min(1000, T).
            generator: of the noise of x_t and of the steps.

        Raises `ValueError` for images of another size, another number of them in `b` than in `a`, and numbers out of range.

        Source: Ho et al. 2020, section 4.4 and figure 8.
        """
        check_output_type(output_type)
        start, end = ends_to_tensors(a, b, image_shape(self))
        image = walk_between(
            self,
            self._predict,
            start,
            end,
            steps=steps,
            strength=strength,
            num_inference_steps=num_inference_steps,
            generator=generator,
            eta=eta,
        )
        return finish(self, image, output_type, return_dict)

    def _predict(self, x_t: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return self.unet(x_t, timestep).sample

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Save a stock `DDPMPipeline` repository; arguments as in `DiffusionPipeline.save_pretrained`.

        A network that predicts mu needs a scheduler that diffusers has not: its code is saved too.

        Raises `ValueError` for a scheduler that diffusers does not have and cannot stand in for.
        """
        stock = DDPMPipeline(without_origin(self.unet), scheduler_to_save(self.scheduler))
        if is_stock(type(stock.scheduler)):
            stock.save_pretrained(os.fspath(save_directory), push_to_hub=push_to_hub, **kwargs)
        else:
            push = self.push_to_hub if push_to_hub else None
            save_with_code(stock, save_directory, index={}, push=push, **kwargs)
