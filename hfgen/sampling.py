"""Images from a trained pipeline, one seed for each image."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from tqdm.auto import tqdm

from hfgen.compiled import compile_now, is_compiled
from hfgen.data.order import Stream, seeded
from hfgen.errors import HfgenError
from hfgen.images import image_grid, to_uint8
from hfgen.pipelines import ClassConditionalDDPMPipeline, UnconditionalDiffusionPipeline, VAEPipeline
from hfgen.pipelines.pipeline_hfgen_class_conditional import check_inputs, set_timesteps

TRAJECTORY_IMAGES = 16
TRAJECTORY_FRAMES = 50


@dataclass(frozen=True)
class Samples:
    """Sampled images and how long they took.

    Attributes:
        images: uint8 (N, C, H, W).
        trajectory: uint8 (frames, M, C, H, W), the first M <= 16 images from noise to result; None if not asked for.
        seconds: of sampling.
    """

    images: torch.Tensor
    trajectory: torch.Tensor | None
    seconds: float


def pick_device(name: str | None = None) -> torch.device:
    """The named device, or the first of cuda, mps and cpu that is there; `HfgenError` for one that is not."""
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise HfgenError(f"device {name!r} is not available here: use another, such as cpu") from error
    return device


def generate(
    pipeline: UnconditionalDiffusionPipeline | ClassConditionalDDPMPipeline,
    num_images: int,
    num_inference_steps: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    eta: float = 0.0,
    trajectory: bool = False,
    first: int = 0,
    class_labels: list[int | str] | None = None,
    guidance_scale: float = 1.0,
) -> Samples:
    """Sample images first..first+num_images-1, the noise of image i drawn from a generator of its own, seeded by (seed, i).

    Image i is therefore the same whatever `num_images` and `batch_size` are, but for the rounding of the UNet, whose
    matrix products sum in another order for another batch: at times a pixel differs by one of its 256 levels.
    The generators lie on the pipeline's device; another kind of device draws other images.

    A class-conditional pipeline gives image i the class i, modulo their number, of `class_labels` (by default all in turn),
    with `guidance_scale`.

    A compiled UNet (`compile_unet`) gets full batches only, and what it takes to compile does not count as seconds.

    Raises `HfgenError` for arguments out of range (see the pipelines), classes for a model that was told none, and a full GPU.
    """
    _check_numbers(num_images, batch_size, seed)
    quiet = copy.copy(pipeline)
    quiet.set_progress_bar_config(disable=True)
    conditional = isinstance(pipeline, ClassConditionalDDPMPipeline)
    if not conditional and (class_labels is not None or guidance_scale != 1):
        raise HfgenError("class labels and guidance are for class-conditional models, and this is none: leave them out")
    if not 0 <= guidance_scale < math.inf:
        raise HfgenError(f"guidance_scale={guidance_scale}: use 0 or more; 1 is no guidance")
    steps = num_inference_steps or min(1000, pipeline.scheduler.config.num_train_timesteps)
    try:
        labels = quiet.label_numbers(class_labels or range(len(quiet.class_names))) if conditional else []
        check_inputs(quiet, 1, None, steps, eta, "pt")
        calls = len(set_timesteps(quiet, steps))
    except ValueError as error:
        raise HfgenError(str(error)) from error
    recorder = _Recorder(calls, min(num_images, TRAJECTORY_IMAGES)) if trajectory else None
    arguments = {"guidance_scale": guidance_scale} if conditional else {}
    compiled = is_compiled(quiet.unet)

    def draw(start_at: int, end: int, steps: int, on_step=None) -> torch.Tensor:
        last = start_at + batch_size if compiled else end
        generators = _generators(quiet.device, seed, start_at, last)
        wanted = [labels[i % len(labels)] for i in range(start_at, last)] if conditional else len(generators)
        return _sample(quiet, wanted, generators, steps, eta, on_step, arguments)[: end - start_at]

    if compiled:
        compile_now(lambda: draw(first, first + 1, 1))
    batches, start = [], time.perf_counter()
    with tqdm(total=calls * -(-num_images // batch_size), desc="denoising", unit="step") as bar:

        def on_step(_pipeline, step, _timestep, tensors):
            bar.update()
            if recorder is not None:
                recorder(step, tensors["latents"])

        for start_at in range(first, first + num_images, batch_size):
            x_0 = draw(start_at, min(first + num_images, start_at + batch_size), steps, on_step) * 2 - 1
            batches.append(to_uint8(x_0).cpu())
    images = torch.cat(batches)
    frames = recorder.frames(images) if recorder is not None else None
    return Samples(images, frames, time.perf_counter() - start)


def generate_vae(
    pipeline: VAEPipeline,
    num_images: int,
    seed: int = 0,
    batch_size: int = 64,
    sample_pixels: bool = False,
    first: int = 0,
) -> Samples:
    """Means of p(x|z), or draws from it with `sample_pixels`, z ~ N(0, I); image i depends on (seed, i) as in `generate`.

    Raises `HfgenError` for arguments out of range.
    """
    _check_numbers(num_images, batch_size, seed)
    batches, start = [], time.perf_counter()
    for start_at in range(first, first + num_images, batch_size):
        generators = _generators(pipeline.device, seed, start_at, min(first + num_images, start_at + batch_size))
        images = pipeline(len(generators), generators, sample_pixels=sample_pixels, output_type="pt").images
        batches.append(to_uint8(images * 2 - 1).cpu())
    return Samples(torch.cat(batches), None, time.perf_counter() - start)


def _check_numbers(num_images: int, batch_size: int, seed: int):
    for name, value, least in (("num_images", num_images, 1), ("batch_size", batch_size, 1), ("seed", seed, 0)):
        if value < least:
            raise HfgenError(f"{name}={value}: use {least} or more")


def _generators(device: torch.device, seed: int, first: int, end: int) -> list[torch.Generator]:
    """One for each of the images first..end-1; torch has none that draws on mps."""
    draw_on = "cpu" if device.type == "mps" else device
    return [seeded(draw_on, seed, Stream.SAMPLES, i) for i in range(first, end)]


def _sample(pipeline, wanted, generators, steps, eta, on_step, arguments):
    try:
        return pipeline(
            wanted,
            generator=generators,
            num_inference_steps=steps,
            eta=eta,
            output_type="pt",
            callback_on_step_end=on_step,
            **arguments,
        ).images
    except torch.cuda.OutOfMemoryError as error:
        raise HfgenError(
            f"{len(generators)} images at once do not fit on {pipeline.device}: lower batch_size"
        ) from error


class _Recorder:
    """Keeps the first `count` images at about 50 evenly chosen of `calls` steps; batches come in order."""

    def __init__(self, calls: int, count: int):
        self.count = count
        chosen = np.linspace(0, calls - 1, min(calls, TRAJECTORY_FRAMES)).round().astype(int)
        self.kept = {int(step): [] for step in chosen}

    def __call__(self, step: int, x: torch.Tensor):
        missing = self.count - sum(len(part) for part in self.kept.get(step, []))
        if step in self.kept and missing > 0:
            # samples of variance-exploding schedulers grow with the noise: show them at the scale of an image
            rms = x.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp(min=1)
            self.kept[step].append(to_uint8(x / rms)[:missing])

    def frames(self, images: torch.Tensor) -> torch.Tensor:
        noisy = [torch.cat(parts).cpu() for parts in self.kept.values()]
        return torch.stack([*noisy[:-1], images[: self.count]])


def trajectory_grids(trajectory: torch.Tensor) -> list:
    """A grid (PIL image) for each frame of `Samples.trajectory`."""
    return [image_grid(frame) for frame in trajectory]
