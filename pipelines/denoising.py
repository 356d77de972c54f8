"""Reverse diffusion by a UNet and a scheduler, step by step. Files that ship to the Hub hold marked copies of this."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline, ImagePipelineOutput, SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor

OUTPUT_TYPES = ("pil", "np", "pt")
Generators = torch.Generator | list[torch.Generator] | None
Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
OnStepEnd = Callable[[DiffusionPipeline, int, torch.Tensor, dict[str, Any]], dict[str, Any] | None]


def check_inputs(
    pipeline: DiffusionPipeline,
    batch_size: int,
    generator: Generators,
    num_inference_steps: int,
    eta: float,
    output_type: str,
) -> None:
    """Raise `ValueError` for arguments of a pipeline's call that cannot be used."""
    scheduler = pipeline.scheduler
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: at least 1 image")
    if isinstance(generator, list) and len(generator) != batch_size:
        raise ValueError(f"{len(generator)} generators for batch_size={batch_size}: pass one for each image, or one")
    steps = scheduler.config.num_train_timesteps
    if not 1 <= num_inference_steps <= steps:
        raise ValueError(
            f"num_inference_steps={num_inference_steps}: this model was trained for {steps}, use 1..{steps}"
        )
    if eta != 0 and "eta" not in inspect.signature(scheduler.step).parameters:
        raise ValueError(f"eta={eta}: {type(scheduler).__name__} has no eta; use DDIMScheduler, or eta=0")
    check_output_type(output_type)


def check_output_type(output_type: str) -> None:
    """Raise `ValueError` for a form of images that `finish` does not know."""
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type={output_type!r}: choose one of {', '.join(OUTPUT_TYPES)}")


def set_timesteps(pipeline: DiffusionPipeline, num_inference_steps: int) -> torch.Tensor:
    """Set the scheduler to `num_inference_steps` and return its timesteps, on the CPU, one for each UNet call.

    Where the rounding of diffusers gives a timestep of -1 (61 "trailing" steps of 1000) or one twice, they are set exactly.

    Raises `ValueError` for timesteps that the UNet's embedding has no value of, fractional ones where it is learned and those
    without a logarithm where it takes one, and for a number of steps that the scheduler cannot take.
    """
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(num_inference_steps)
    config = scheduler.config
    # those of others are noise levels or their logarithms, of any sign
    are_steps = "beta_schedule" in config and config.get("timestep_type", "discrete") == "discrete"
    if are_steps and (scheduler.timesteps.min() < 0 or len(scheduler.timesteps.unique()) < num_inference_steps):
        _set_exactly(scheduler, num_inference_steps)
    _check_stride(scheduler, num_inference_steps)
    timesteps = scheduler.timesteps
    embedding = pipeline.unet.config.time_embedding_type
    if embedding == "fourier" and timesteps.min() <= 0:
        raise ValueError(
            f"{type(scheduler).__name__} asks for timestep {timesteps.min():g}, and this UNet embeds the log of timesteps "
            "(time_embedding_type='fourier'), which is not finite there: use a scheduler or a number of steps without it"
        )
    if timesteps.is_floating_point() and embedding == "learned":
        raise ValueError(
            f"{type(scheduler).__name__} asks for fractional timesteps, but this UNet has an embedding for each "
            "integer timestep: use DDPMScheduler, DDIMScheduler, DPMSolverMultistepScheduler or UniPCMultistepScheduler"
        )
    return timesteps


def _set_exactly(scheduler: SchedulerMixin, steps: int) -> None:
    """The "trailing" timesteps of Lin et al. 2023, table 2, from the first that the scheduler takes, all different."""
    first = int(scheduler.timesteps.max())
    if "timesteps" in inspect.signature(scheduler.set_timesteps).parameters and steps <= first + 1:
        scheduler.set_timesteps(timesteps=[round((first + 1) * (steps - i) / steps) - 1 for i in range(steps)])
    elif hasattr(scheduler, "sigmas"):
        raise ValueError(
            f"num_inference_steps={steps}: {type(scheduler).__name__} would take a timestep twice, use fewer"
        )
    else:
        scheduler.timesteps = scheduler.timesteps[:steps]


def _check_stride(scheduler: SchedulerMixin, steps: int) -> None:
    """DDIM steps down by T // steps whatever its timesteps are, which is too little where T / steps is much more."""
    T = scheduler.config.num_train_timesteps
    if (
        isinstance(scheduler, DDIMScheduler)
        and scheduler.config.timestep_spacing == "trailing"
        and not _ddim_fits(steps, T)
    ):
        fitting = next(n for n in range(steps, 0, -1) if _ddim_fits(n, T))
        raise ValueError(
            f"num_inference_steps={steps}: DDIMScheduler would take strides of {T // steps} where {T / steps:.2f} are due, and "
            f"leave noise; use {fitting}, or another scheduler"
        )


def _ddim_fits(steps: int, T: int) -> bool:
    """Whether DDIM's strides of T // steps, all together, fall short of T by 5 % at most."""
    return T // steps * steps >= 0.95 * T


def image_shape(pipeline: DiffusionPipeline) -> tuple[int, int, int]:
    """(C, H, W) of what the UNet takes; `ValueError` where its config does not say."""
    size = pipeline.unet.config.sample_size
    if size is None:
        raise ValueError(
            "sample_size of the UNet's config is None: set it to the side of the images, or to [height, width]"
        )
    height, width = (size, size) if isinstance(size, int) else size
    return pipeline.unet.config.in_channels, height, width


def initial_noise(pipeline: DiffusionPipeline, batch_size: int, generator: Generators) -> torch.Tensor:
    """x_T for the scheduler, (B, C, H, W)."""
    device = pipeline._execution_device
    # randn does not work reproducibly on mps
    draw_on = torch.device("cpu") if device.type == "mps" else device
    shape = (batch_size, *image_shape(pipeline))
    noise = randn_tensor(shape, generator=generator, device=draw_on, dtype=pipeline.unet.dtype)
    return noise.to(device) * getattr(pipeline.scheduler, "init_noise_sigma", 1.0)  # flow matching has none


def denoise(
    pipeline: DiffusionPipeline,
    predict: Predict,
    image: torch.Tensor,
    *,
    timesteps: torch.Tensor,
    generator: Generators,
    eta: float,
    callback_on_step_end: OnStepEnd | None = None,
) -> torch.Tensor:
    """x_0 from x_T: a step for each of `timesteps`, which lie on the CPU.

    `predict(x_t, timestep)` is the network's output. `callback_on_step_end` is called after every step as (pipeline, step,
    timestep, tensors) with the tensors "latents", x_{t-1} of (B, C, H, W), and "pred_original_sample", x_0 as predicted or
    None. A "latents" in the dict that it returns replaces x_{t-1}.
    """
    scheduler = pipeline.scheduler
    # the UNet's timesteps lie on its device, the scheduler's on the CPU: neither then waits for the other
    unet_timesteps = timesteps.to(pipeline._execution_device)
    accepted = inspect.signature(scheduler.step).parameters
    # DDIM would go on with the noise of before x_0 was clipped, and end the worse the more steps it takes
    step_kwargs = {"eta": eta, "generator": generator, "use_clipped_model_output": True}
    # some have another eta than 0 where none is passed
    step_kwargs = {k: v for k, v in step_kwargs.items() if k in accepted and (k != "eta" or v)}
    scale_model_input = getattr(scheduler, "scale_model_input", lambda x, _: x)
    with pipeline.progress_bar(total=len(timesteps)) as bar:
        for i, t in enumerate(timesteps):
            output = for_scheduler(pipeline, predict(scale_model_input(image, t), unet_timesteps[i]))
            output = scheduler.step(output, t, image, **step_kwargs)
            image = output.prev_sample
            if callback_on_step_end is not None:
                tensors = {"latents": image, "pred_original_sample": getattr(output, "pred_original_sample", None)}
                image = (callback_on_step_end(pipeline, i, t, tensors) or {}).get("latents", image)
            bar.update()
    return image


def for_scheduler(pipeline: DiffusionPipeline, output: torch.Tensor) -> torch.Tensor:
    """What the scheduler takes of the network's output: both halves of (B, 2C, H, W) only if it knows learned variances."""
    learned = pipeline.scheduler.config.get("variance_type") in ("learned", "learned_range")
    takes_both = learned and isinstance(pipeline.scheduler, DDPMScheduler)
    return output if takes_both else output[:, : pipeline.unet.config.in_channels]


def finish(
    pipeline: DiffusionPipeline, image: torch.Tensor, output_type: str, return_dict: bool
) -> ImagePipelineOutput | tuple:
    """Images (B, C, H, W) in [-1, 1] as a pipeline gives them; `ValueError` for an unknown `output_type`."""
    check_output_type(output_type)
    image = (image / 2 + 0.5).clamp(0, 1)
    if output_type != "pt":
        image = image.cpu().permute(0, 2, 3, 1).float().numpy()
    if output_type == "pil":
        image = pipeline.numpy_to_pil(image)
    pipeline.maybe_free_model_hooks()
    return ImagePipelineOutput(images=image) if return_dict else (image,)
