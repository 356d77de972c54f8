"""What a diffusion model can do with images: paint parts of them anew, and walk between them.

Files that ship to the Hub hold marked copies of this. `predict` is asked as in `denoise`, so that a guided network and a plain
one are edited by the same code.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers import DiffusionPipeline, RePaintScheduler
from diffusers.utils.torch_utils import randn_tensor

from hfgen.pipelines.denoising import Predict, check_inputs, denoise, image_shape, set_timesteps
from hfgen.pipelines.inputs import images_to_tensor
from hfgen.process.parameterization import epsilon_from_prediction


def repaint(
    pipeline: DiffusionPipeline,
    predict: Predict,
    x_0: torch.Tensor,
    mask: Any,
    *,
    num_inference_steps: int,
    jump_length: int,
    jump_n_sample: int,
    generator: torch.Generator | None,
) -> torch.Tensor:
    """x_0 (B, C, H, W) in [-1, 1], painted anew where the mask is 0.5 and above.

    `mask` is as `images_to_tensor` takes grey images, one for all or one for each.

    Raises `ValueError` for masks of another size or number, for numbers out of range, for a prediction of mu, and for steps
    that begin at zero SNR.

    Source: Lugmayr et al. 2022, algorithm 1 and appendix B.
    """
    paint = (images_to_tensor(mask, (1, *image_shape(pipeline)[1:])) >= 0).float()
    if len(paint) not in (1, len(x_0)):
        raise ValueError(f"{len(paint)} masks for {len(x_0)} images: pass one for all, or one for each")
    scheduler = _repaint_scheduler(pipeline, num_inference_steps, jump_length, jump_n_sample)
    kind, channels = pipeline.scheduler.config.prediction_type, pipeline.unet.config.in_channels
    device, dtype = pipeline._execution_device, pipeline.unet.dtype
    x_0, keep = x_0.to(device, dtype), (1 - paint).to(device, dtype)
    x_t = randn_tensor(x_0.shape, generator, device, dtype)
    before = scheduler.timesteps[0] + 1
    for t in pipeline.progress_bar(scheduler.timesteps):
        if t < before:
            output = predict(x_t, t.to(device))[:, :channels]
            alpha_bar = pipeline.scheduler.alphas_cumprod[t].to(x_t)
            epsilon = epsilon_from_prediction(kind, output, x_t, alpha_bar)
            x_t = scheduler.step(epsilon, t, x_t, x_0, keep, generator).prev_sample
        else:
            x_t = scheduler.undo_step(x_t, before, generator)
        before = t
    return x_t


def _repaint_scheduler(
    pipeline: DiffusionPipeline, num_inference_steps: int, jump_length: int, jump_n_sample: int
) -> RePaintScheduler:
    """RePaint with fresh noise at each step (eta = 1), on this model's betas, its timesteps set."""
    config = pipeline.scheduler.config
    T = config.num_train_timesteps
    for name, value, most in (
        ("num_inference_steps", num_inference_steps, T),
        ("jump_length", jump_length, num_inference_steps),
        ("jump_n_sample", jump_n_sample, math.inf),
    ):
        if not 1 <= value <= most:
            raise ValueError(f"{name}={value}: use 1..{most}")
    kind = config.get("prediction_type")
    if kind not in ("epsilon", "sample", "v_prediction") or "beta_schedule" not in config:
        raise ValueError(
            f"prediction_type={kind!r} of {type(pipeline.scheduler).__name__}: inpainting needs a model of epsilon, sample or "
            "v_prediction on betas"
        )
    scheduler = RePaintScheduler(
        T,
        trained_betas=pipeline.scheduler.betas.float().cpu().numpy(),
        eta=1.0,
        clip_sample=config.get("clip_sample", True),
    )
    scheduler.set_timesteps(num_inference_steps, jump_length, jump_n_sample)
    if scheduler.alphas_cumprod[scheduler.timesteps[0]] == 0:
        raise ValueError(
            f"num_inference_steps={num_inference_steps}: with zero terminal SNR x_T says nothing about x_0, use 1..{T - 1}"
        )
    return scheduler


def walk_between(
    pipeline: DiffusionPipeline,
    predict: Predict,
    start: torch.Tensor,
    end: torch.Tensor,
    *,
    steps: int,
    strength: float,
    num_inference_steps: int | None,
    generator: torch.Generator | None,
    eta: float,
) -> torch.Tensor:
    """`steps` images on each way from `start` to `end`, (B, C, H, W) in [-1, 1] both: (B * steps, C, H, W), walk by walk.

    Both are noised to x_t with the same noise, t = strength * T, mixed linearly and denoised. `predict` is asked for all B * steps
    at once.

    Raises `ValueError` for numbers out of range.

    Source: Ho et al. 2020, section 4.4 and figure 8.
    """
    if steps < 2 or not 0 < strength <= 1:
        raise ValueError(f"steps={steps}, strength={strength}: at least 2 steps, strength above 0 to 1")
    if "beta_schedule" not in pipeline.scheduler.config:
        raise ValueError(
            f"{type(pipeline.scheduler).__name__} has no betas: images are noised to x_t by a DDPM's alone"
        )
    if num_inference_steps is None:
        num_inference_steps = min(1000, pipeline.scheduler.config.num_train_timesteps)
    check_inputs(
        pipeline, batch_size=1, generator=None, num_inference_steps=num_inference_steps, eta=eta, output_type="pt"
    )
    timesteps = set_timesteps(pipeline, num_inference_steps)
    begin = num_inference_steps - max(1, round(strength * num_inference_steps))
    begin *= getattr(pipeline.scheduler, "order", 1)  # Heun's has each timestep but the first one twice
    timesteps = timesteps[begin:]
    device, dtype = pipeline._execution_device, pipeline.unet.dtype
    start, end = start.to(device, dtype), end.to(device, dtype)
    noise = randn_tensor(start.shape, generator, device, dtype)
    first = timesteps[:1].expand(len(start))
    start, end = (pipeline.scheduler.add_noise(x, noise, first) for x in (start, end))
    share = torch.linspace(0, 1, steps, device=device, dtype=dtype)[None, :, None, None, None]
    x_t = torch.lerp(start[:, None], end[:, None], share).flatten(0, 1)
    if hasattr(pipeline.scheduler, "set_begin_index"):
        pipeline.scheduler.set_begin_index(begin)
    return denoise(pipeline, predict, x_t, timesteps=timesteps, generator=generator, eta=eta)


def ends_to_tensors(a: Any, b: Any, shape: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Images at both ends of walks, as `images_to_tensor` takes them; `ValueError` for more in one than in the other."""
    start, end = images_to_tensor(a, shape), images_to_tensor(b, shape)
    if len(start) != len(end):
        raise ValueError(f"{len(start)} images in a and {len(end)} in b: pass as many in each")
    return start, end
