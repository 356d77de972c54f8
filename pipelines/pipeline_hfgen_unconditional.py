"""Unconditional image generation with any diffusers scheduler, saved as a stock `DDPMPipeline` repository."""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Callable

import torch
from diffusers import DDPMPipeline, DDPMScheduler, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor

OUTPUT_TYPES = ("pil", "np", "pt")


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
        # the UNet's timesteps lie on its device, the scheduler's on the CPU: neither then waits for the other
        unet_timesteps = timesteps.to(self._execution_device)
        accepted = inspect.signature(self.scheduler.step).parameters
        step_kwargs = {k: v for k, v in {"eta": eta, "generator": generator}.items() if k in accepted}

        image = self._initial_noise(batch_size, generator)
        with self.progress_bar(total=len(timesteps)) as bar:
            for i, t in enumerate(timesteps):
                model_output = self.unet(self.scheduler.scale_model_input(image, t), unet_timesteps[i]).sample
                output = self.scheduler.step(model_output, t, image, **step_kwargs)
                image = output.prev_sample
                if callback_on_step_end is not None:
                    x_0 = getattr(output, "pred_original_sample", None)
                    tensors = {"latents": image, "pred_original_sample": x_0}
                    image = (callback_on_step_end(self, i, t, tensors) or {}).get("latents", image)
                bar.update()

        image = (image / 2 + 0.5).clamp(0, 1)
        if output_type != "pt":
            image = image.cpu().permute(0, 2, 3, 1).float().numpy()
        if output_type == "pil":
            image = self.numpy_to_pil(image)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=image) if return_dict else (image,)

    def check_inputs(self, batch_size, generator, num_inference_steps, eta, output_type):
        """Raise `ValueError` for arguments of `__call__` that cannot be used."""
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: at least 1 image")
        if isinstance(generator, list) and len(generator) != batch_size:
            raise ValueError(
                f"{len(generator)} generators for batch_size={batch_size}: pass one for each image, or one"
            )
        steps = self.scheduler.config.num_train_timesteps
        if not 1 <= num_inference_steps <= steps:
            raise ValueError(
                f"num_inference_steps={num_inference_steps}: this model was trained for {steps}, use 1..{steps}"
            )
        if eta != 0 and "eta" not in inspect.signature(self.scheduler.step).parameters:
            raise ValueError(f"eta={eta}: {type(self.scheduler).__name__} has no eta; use DDIMScheduler, or eta=0")
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type={output_type!r}: choose one of {', '.join(OUTPUT_TYPES)}")

    def set_timesteps(self, num_inference_steps: int) -> torch.Tensor:
        """Set the scheduler to `num_inference_steps` and return its timesteps, on the CPU, one for each UNet call.

        Raises `ValueError` for fractional timesteps on a UNet with a learned embedding of integer ones.
        """
        self.scheduler.set_timesteps(num_inference_steps)
        timesteps = self.scheduler.timesteps
        if timesteps.is_floating_point() and self.unet.config.time_embedding_type == "learned":
            raise ValueError(
                f"{type(self.scheduler).__name__} asks for fractional timesteps, but this UNet has an embedding for each "
                "integer timestep: use DDPMScheduler, DDIMScheduler, DPMSolverMultistepScheduler or UniPCMultistepScheduler"
            )
        return timesteps

    def _initial_noise(self, batch_size, generator):
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        shape = (batch_size, self.unet.config.in_channels, height, width)
        device = self._execution_device
        # randn does not work reproducibly on mps
        draw_on = torch.device("cpu") if device.type == "mps" else device
        noise = randn_tensor(shape, generator=generator, device=draw_on, dtype=self.unet.dtype)
        return noise.to(device) * self.scheduler.init_noise_sigma

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs):
        """Save a stock `DDPMPipeline` repository; arguments as in `DiffusionPipeline.save_pretrained`.

        Raises `ValueError` for a scheduler that diffusers does not have and cannot stand in for.
        """
        stock = DDPMPipeline(without_origin(self.unet), stock_scheduler(self.scheduler))
        stock.save_pretrained(os.fspath(save_directory), **kwargs)


def stock_scheduler(scheduler):
    """The scheduler of diffusers that does what `scheduler` does: any `DDPMScheduler` becomes that very class.

    Its config has that class's keys and no other. Raises `ValueError` if its betas differ, or if there is none.
    """
    if not isinstance(scheduler, DDPMScheduler):
        if type(scheduler).__module__.split(".")[0] != "diffusers":
            raise ValueError(f"{type(scheduler).__name__} is not a scheduler of diffusers: this pipeline saves no code")
        return scheduler
    known = set(inspect.signature(DDPMScheduler.__init__).parameters) - {"self"}
    stock = DDPMScheduler(**{k: v for k, v in scheduler.config.items() if k in known})
    if not torch.allclose(stock.betas.double(), scheduler.betas.double(), rtol=1e-5, atol=0):
        raise ValueError(
            f"{type(scheduler).__name__}: DDPMScheduler makes other betas from its config; set trained_betas"
        )
    return stock


def without_origin(model):
    """`model`, its weights shared, without the path that it was loaded from in its config."""
    model = copy.copy(getattr(model, "_orig_mod", model))
    model._internal_dict = type(model.config)({k: v for k, v in model.config.items() if k != "_name_or_path"})
    return model
