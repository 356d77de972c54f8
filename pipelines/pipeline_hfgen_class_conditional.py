"""Images of chosen classes, with classifier-free guidance. This file needs diffusers and what comes with it alone."""

from __future__ import annotations

import copy
import inspect
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import diffusers
import numpy as np
import PIL.Image
import torch
from diffusers import (
    ConsistencyModelPipeline,
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    ImagePipelineOutput,
    ModelMixin,
    RePaintScheduler,
    SchedulerMixin,
    UNet2DModel,
)
from diffusers.utils.torch_utils import randn_tensor

ClassLabels = int | str | Sequence[int | str] | torch.Tensor
# Copied from hfgen.pipelines.denoising.OUTPUT_TYPES
OUTPUT_TYPES = ("pil", "np", "pt")
# Copied from hfgen.pipelines.denoising.Generators
Generators = torch.Generator | list[torch.Generator] | None
# Copied from hfgen.pipelines.denoising.Predict
Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
# Copied from hfgen.pipelines.denoising.OnStepEnd
OnStepEnd = Callable[[DiffusionPipeline, int, torch.Tensor, dict[str, Any]], dict[str, Any] | None]
# Copied from hfgen.pipelines.saving.HUB_LOADING
HUB_LOADING = ("cache_dir", "token", "revision", "local_files_only", "force_download")
# Copied from hfgen.pipelines.saving.HUB_PUSHING
HUB_PUSHING = ("repo_id", "commit_message", "private", "token", "create_pr")


class ClassConditionalDDPMPipeline(DiffusionPipeline):
    """Images x_0 ~ p(x_0 | class) by a `UNet2DModel` that was told classes, and any diffusers scheduler.

    The UNet has an embedding for each class and one more, the last, for no class; it was trained with the label dropped
    at times (Ho & Salimans 2022, Classifier-Free Diffusion Guidance). What `save_pretrained` and `push_to_hub` leave holds
    this file, so that `DiffusionPipeline.from_pretrained(..., trust_remote_code=True)` loads it where this project is not installed.

    Args:
        unet: with `num_class_embeds`, the number of classes plus 1.
        scheduler: of the diffusion that the UNet was trained with.
        class_names: of labels 0, 1, ..., as a list or by the label; by default their numbers.
    """

    own_schedulers: ClassVar[dict[str, type]] = {}

    def __init__(
        self,
        unet: UNet2DModel,
        scheduler: SchedulerMixin,
        class_names: Sequence[str] | dict[str, str] | None = None,
    ):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        count = (unet.config.num_class_embeds or 1) - 1
        if count < 1:
            raise ValueError(f"num_class_embeds={unet.config.num_class_embeds}: this UNet was told no classes")
        if isinstance(class_names, dict):
            class_names = [name for _, name in sorted(class_names.items(), key=lambda item: int(item[0]))]
        names = [str(i) for i in range(count)] if class_names is None else [str(name) for name in class_names]
        if len(names) != count:
            raise ValueError(
                f"{len(names)} class_names for {count} classes: pass one for each, in the order of the labels"
            )
        # a dict, as diffusers takes a list in model_index.json for a component
        self.register_to_config(class_names={str(i): name for i, name in enumerate(names)})

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> DiffusionPipeline:
        """Load a folder or repository; arguments as in `DiffusionPipeline.from_pretrained`.

        Where this project is installed its own class is used and no code of the repository is run.
        """
        if not cls.own_schedulers:
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        kwargs.pop("trust_remote_code", None)
        path = os.fspath(pretrained_model_name_or_path)
        hub = {k: v for k, v in kwargs.items() if k in HUB_LOADING}
        index = cls.load_config(path, **hub)
        name = index["scheduler"][1]
        scheduler_class = cls.own_schedulers.get(name) or getattr(diffusers, name, None)
        if scheduler_class is None:
            raise ValueError(f"{path} needs a scheduler that diffusers has not, {name}: its code is not run")
        unet = kwargs.pop("unet", None) or UNet2DModel.from_pretrained(
            path, subfolder="unet", **{"use_safetensors": True, **kwargs}
        )
        scheduler = kwargs.pop("scheduler", None) or scheduler_class.from_pretrained(path, subfolder="scheduler", **hub)
        return cls(unet, scheduler, index.get("class_names"))

    @property
    def class_names(self) -> list[str]:
        """Of labels 0, 1, ..."""
        return list(self.config.class_names.values())

    @torch.no_grad()
    def __call__(
        self,
        class_labels: ClassLabels,
        guidance_scale: float = 1.0,
        generator: Generators = None,
        num_inference_steps: int | None = None,
        eta: float = 0.0,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: OnStepEnd | None = None,
    ) -> ImagePipelineOutput | tuple:
        """Draw an image for each label.

        Args:
            class_labels: numbers or names of classes, one for each image; they may differ. A word of digits is a name,
                if there is such a class, and else a number.
            guidance_scale: w in out_u + w (out_c - out_u), with out_c and out_u the network's outputs with the class and
                without: 1 samples from the model of p(x|class), 0 from that of p(x), more than 1 sharpens towards images
                that are typical of the class, at the price of variety. Other than 0 and 1 it takes two network evaluations a
                step. (The w of Ho & Salimans 2022 is this one minus 1.)
            generator: one for the batch, or a list of one for each image: an image then depends on its own alone.
            num_inference_steps: 1..T; by default min(1000, T) with T = `scheduler.config.num_train_timesteps`.
            eta: the share of fresh noise, 0 (DDIM) to 1 (DDPM), for a scheduler whose `step` takes it.
            output_type: "pil", "np" of (B, H, W, C) or "pt" of (B, C, H, W); values of both in [0, 1].
            callback_on_step_end: as in `denoise`.

        Returns an `ImagePipelineOutput` with `images`, or the tuple (images,).

        Raises `ValueError` for unknown labels and for arguments out of their range.
        """
        labels = self.label_numbers(class_labels)
        if num_inference_steps is None:
            num_inference_steps = min(1000, self.scheduler.config.num_train_timesteps)
        check_inputs(
            self,
            batch_size=len(labels),
            generator=generator,
            num_inference_steps=num_inference_steps,
            eta=eta,
            output_type=output_type,
        )
        predict = self._guided(labels, guidance_scale)
        timesteps = set_timesteps(self, num_inference_steps)
        image = denoise(
            self,
            predict,
            initial_noise(self, len(labels), generator),
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
        class_labels: ClassLabels,
        guidance_scale: float = 1.0,
        num_inference_steps: int = 250,
        jump_length: int = 10,
        jump_n_sample: int = 10,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """Paint anew where `mask` is 1 (white), in keeping with the class and with the rest, which stays as it is (RePaint).

        Args:
            images: as `images_to_tensor` takes them: PIL images, arrays or tensors, uint8 or in [0, 1].
            mask: as `images` of grey, one for all or one for each; 0.5 and above is painted.
            class_labels: what the images become, one for all or one for each; numbers or names as in `__call__`.
            guidance_scale: as in `__call__`.
            num_inference_steps: 1..T denoising steps; jumps come on top.
            jump_length, jump_n_sample: after every `jump_length` steps go back as many, `jump_n_sample` - 1 times, so that
                what is painted and what is kept come to agree. Network evaluations: about steps * jump_n_sample.

        Raises `ValueError` for images or masks of another size, unknown labels and numbers out of range.

        Source: Lugmayr et al. 2022, algorithm 1 and appendix B.
        """
        check_output_type(output_type)
        x_0 = images_to_tensor(images, image_shape(self))
        image = repaint(
            self,
            self._guided(self._labels_of(x_0, class_labels), guidance_scale),
            x_0,
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
        class_labels: ClassLabels,
        guidance_scale: float = 1.0,
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
            class_labels: one for all walks or one for each; numbers or names as in `__call__`.
            guidance_scale: as in `__call__`.
            strength: t / T, above 0 to 1. Little keeps to the two images, as in a cross-fade; much gives images that have less
                to do with them. All of a walk share the noise of its x_t.
            num_inference_steps: of the whole chain, of which the part below t is run; by default min(1000, T).
            generator: of the noise of x_t and of the steps.

        Raises `ValueError` for images of another size, another number of them in `b` than in `a`, unknown labels and numbers
        out of range.

        Source: Ho et al. 2020, section 4.4 and figure 8.
        """
        check_output_type(output_type)
        start, end = ends_to_tensors(a, b, image_shape(self))
        image = walk_between(
            self,
            self._guided(self._labels_of(start, class_labels), guidance_scale),
            start,
            end,
            steps=steps,
            strength=strength,
            num_inference_steps=num_inference_steps,
            generator=generator,
            eta=eta,
        )
        return finish(self, image, output_type, return_dict)

    def label_numbers(self, class_labels: ClassLabels) -> list[int]:
        """Numbers of classes given by number or name; `ValueError` for one that there is not, and for none."""
        if isinstance(class_labels, torch.Tensor):
            class_labels = class_labels.tolist()
        one = isinstance(class_labels, str) or not isinstance(class_labels, Iterable)
        labels = [class_labels] if one else list(class_labels)
        if not labels:
            raise ValueError("no class_labels: pass one for each image")
        return [self._label_number(label) for label in labels]

    def _labels_of(self, images: torch.Tensor, class_labels: ClassLabels) -> list[int]:
        labels = self.label_numbers(class_labels)
        if len(labels) not in (1, len(images)):
            raise ValueError(f"{len(labels)} class_labels for {len(images)} images: pass one for all, or one for each")
        return labels

    def _label_number(self, label: int | str) -> int:
        names = self.class_names
        if isinstance(label, str) and label in names:
            return names.index(label)
        if isinstance(label, str) and label.isdecimal():
            label = int(label)
        if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(names):
            return label
        raise ValueError(f"class label {label!r}: use 0..{len(names) - 1}, or a name of {', '.join(names)}")

    def _guided(self, numbers: list[int], scale: float) -> Predict:
        """The network's output by guidance; of a learned variance the class's own half is taken.

        Of a batch with more rows than labels each label is that of as many rows in a row.
        """
        if not 0 <= scale < float("inf"):
            raise ValueError(f"guidance_scale={scale}: use 0 or more; 1 is no guidance")
        labels = torch.tensor(numbers, device=self._execution_device)
        nothing = torch.full_like(labels, len(self.class_names))
        channels = self.unet.config.in_channels

        def alone(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            chosen = labels if scale == 1 else nothing
            return self.unet(x, t, class_labels=_one_a_row(chosen, x)).sample

        def guided(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            both = torch.cat([_one_a_row(labels, x), _one_a_row(nothing, x)])
            with_class, without = self.unet(torch.cat([x, x]), t, class_labels=both).sample.chunk(2)
            output, base = with_class[:, :channels], without[:, :channels]
            return torch.cat([base + scale * (output - base), with_class[:, channels:]], dim=1)

        return alone if scale in (0, 1) else guided

    def to_stock(self) -> ConsistencyModelPipeline:
        """A pipeline of diffusers' own with the same network, whose repository needs no code of this project.

        It draws from the model of p(x|class) as this one does with guidance_scale 1, and knows no other; its labels are numbers,
        without them it draws classes at random, "no class" among them, and it takes a single step unless it is told how many.

        Raises `ValueError` for a network that predicts mu, which diffusers has no scheduler for.
        """
        scheduler = scheduler_to_save(self.scheduler)
        if not is_stock(type(scheduler)):
            raise ValueError("prediction_type='mu': diffusers has no scheduler for it")
        return ConsistencyModelPipeline(without_origin(self.unet), scheduler)

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Save weights, configs and this file; arguments as in `DiffusionPipeline.save_pretrained`.

        With `push_to_hub` the same is uploaded to `repo_id`, by default the folder's name, as `push_to_hub` does.
        """
        pipeline = copy.copy(self)
        pipeline.unet, pipeline.scheduler = without_origin(self.unet), scheduler_to_save(self.scheduler)
        index, push = {"class_names": self.config.class_names}, self.push_to_hub if push_to_hub else None
        save_with_code(pipeline, save_directory, index=index, push=push, **kwargs)


def _one_a_row(labels: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return labels.repeat_interleave(len(x) // len(labels))


# Copied from hfgen.pipelines.denoising.check_inputs
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


# Copied from hfgen.pipelines.denoising.check_output_type
def check_output_type(output_type: str) -> None:
    """Raise `ValueError` for a form of images that `finish` does not know."""
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type={output_type!r}: choose one of {', '.join(OUTPUT_TYPES)}")


# Copied from hfgen.pipelines.denoising.set_timesteps
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


# Copied from hfgen.pipelines.denoising._set_exactly
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


# Copied from hfgen.pipelines.denoising._check_stride
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


# Copied from hfgen.pipelines.denoising._ddim_fits
def _ddim_fits(steps: int, T: int) -> bool:
    """Whether DDIM's strides of T // steps, all together, fall short of T by 5 % at most."""
    return T // steps * steps >= 0.95 * T


# Copied from hfgen.pipelines.denoising.image_shape
def image_shape(pipeline: DiffusionPipeline) -> tuple[int, int, int]:
    """(C, H, W) of what the UNet takes; `ValueError` where its config does not say."""
    size = pipeline.unet.config.sample_size
    if size is None:
        raise ValueError(
            "sample_size of the UNet's config is None: set it to the side of the images, or to [height, width]"
        )
    height, width = (size, size) if isinstance(size, int) else size
    return pipeline.unet.config.in_channels, height, width


# Copied from hfgen.pipelines.denoising.initial_noise
def initial_noise(pipeline: DiffusionPipeline, batch_size: int, generator: Generators) -> torch.Tensor:
    """x_T for the scheduler, (B, C, H, W)."""
    device = pipeline._execution_device
    # randn does not work reproducibly on mps
    draw_on = torch.device("cpu") if device.type == "mps" else device
    shape = (batch_size, *image_shape(pipeline))
    noise = randn_tensor(shape, generator=generator, device=draw_on, dtype=pipeline.unet.dtype)
    return noise.to(device) * getattr(pipeline.scheduler, "init_noise_sigma", 1.0)  # flow matching has none


# Copied from hfgen.pipelines.denoising.denoise
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


# Copied from hfgen.pipelines.denoising.for_scheduler
def for_scheduler(pipeline: DiffusionPipeline, output: torch.Tensor) -> torch.Tensor:
    """What the scheduler takes of the network's output: both halves of (B, 2C, H, W) only if it knows learned variances."""
    learned = pipeline.scheduler.config.get("variance_type") in ("learned", "learned_range")
    takes_both = learned and isinstance(pipeline.scheduler, DDPMScheduler)
    return output if takes_both else output[:, : pipeline.unet.config.in_channels]


# Copied from hfgen.pipelines.denoising.finish
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


# Copied from hfgen.pipelines.editing.repaint
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


# Copied from hfgen.pipelines.editing._repaint_scheduler
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


# Copied from hfgen.pipelines.editing.walk_between
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


# Copied from hfgen.pipelines.editing.ends_to_tensors
def ends_to_tensors(a: Any, b: Any, shape: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Images at both ends of walks, as `images_to_tensor` takes them; `ValueError` for more in one than in the other."""
    start, end = images_to_tensor(a, shape), images_to_tensor(b, shape)
    if len(start) != len(end):
        raise ValueError(f"{len(start)} images in a and {len(end)} in b: pass as many in each")
    return start, end


# Copied from hfgen.pipelines.inputs.images_to_tensor
def images_to_tensor(images: Any, shape: tuple[int, int, int]) -> torch.Tensor:
    """Images of `shape` (C, H, W) as floats in [-1, 1], (B, C, H, W).

    Takes a PIL image or a list of them, a numpy array (B, H, W, C), (H, W, C) or of grey images (H, W), a tensor
    (B, C, H, W) or (C, H, W), or a list of arrays or tensors of single images. Numbers are uint8 in 0..255 or
    floating point in [0, 1].

    Raises `ValueError` for another type, size, number of channels, or range, and for no image at all.
    """
    images = images if isinstance(images, (list, tuple)) else [images]
    if not images:
        raise ValueError("no images: pass at least one")
    x = torch.cat([_as_tensor(image, shape) for image in images])
    if x.shape[0] == 0:
        raise ValueError("no images: pass at least one")
    return x * 2 - 1


# Copied from hfgen.pipelines.inputs._as_tensor
def _as_tensor(image: Any, shape: tuple[int, int, int]) -> torch.Tensor:
    """(B, C, H, W) in [0, 1] of one element of the input."""
    if isinstance(image, PIL.Image.Image):
        return _as_tensor(np.asarray(_checked_mode(image, shape[0])), shape)
    if isinstance(image, np.ndarray):
        if image.dtype.kind not in "biuf":
            raise ValueError(f"pixels of type {image.dtype}: pass uint8 in 0..255 or floating point in [0, 1]")
        image = torch.from_numpy(np.array(image))
        image = image[..., None] if image.ndim == 2 else image
        image = image.movedim(-1, -3) if image.ndim in (3, 4) else image
    elif not isinstance(image, torch.Tensor):
        raise ValueError(f"an image of type {type(image).__name__}: pass PIL images, numpy arrays or tensors")
    image = image[None] if image.ndim == 3 else image
    if image.ndim != 4 or tuple(image.shape[1:]) != shape:
        found = "x".join(map(str, image.shape[1:] if image.ndim == 4 else image.shape))
        raise ValueError(
            f"images of {found} (channels x height x width): this model takes {'x'.join(map(str, shape))}; "
            "convert, resize or crop them"
        )
    return _unit_range(image).float()


# Copied from hfgen.pipelines.inputs._checked_mode
def _checked_mode(image: PIL.Image.Image, channels: int) -> PIL.Image.Image:
    """The image, if its mode has as many channels; one of black and white becomes grey."""
    mode = {1: "L", 3: "RGB"}.get(channels)
    if image.mode == "1":
        image = image.convert("L")
    if mode is not None and image.mode != mode:
        raise ValueError(f"a PIL image of mode {image.mode}: this model takes {mode}; use image.convert({mode!r})")
    return image


# Copied from hfgen.pipelines.inputs._unit_range
def _unit_range(image: torch.Tensor) -> torch.Tensor:
    """uint8 or floating point pixels on [0, 1]; `ValueError` for others."""
    if image.dtype == torch.uint8:
        return image / 255
    if not image.is_floating_point():
        raise ValueError(f"pixels of type {image.dtype}: pass uint8 in 0..255 or floating point in [0, 1]")
    if image.numel():
        low, high = image.amin().item(), image.amax().item()
        if not (math.isfinite(low) and math.isfinite(high) and low >= 0 and high <= 1):
            hint = "x / 2 + 0.5 brings [-1, 1] there" if low >= -1 and high <= 1 else "divide 0..255 by 255"
            raise ValueError(f"pixels from {low:.4g} to {high:.4g}: pass values in [0, 1]; {hint}")
    return image


# Copied from hfgen.pipelines.saving.save_with_code
def save_with_code(
    pipeline: DiffusionPipeline,
    save_directory: str | os.PathLike,
    *,
    index: dict[str, Any],
    push: Callable[..., Any] | None,
    **kwargs: Any,
) -> None:
    """Save weights and configs, the code of classes that diffusers has not, and a `model_index.json` by which both are found.

    Args:
        index: what `model_index.json` holds beside the classes.
        push: called with the repository's name and what of `kwargs` is for the Hub, when the folder is whole; or None.
        kwargs: of `DiffusionPipeline.save_pretrained`, which would upload before the code lies there.
    """
    folder = Path(save_directory)
    hub = {k: kwargs.pop(k) for k in HUB_PUSHING if k in kwargs}
    DiffusionPipeline.save_pretrained(pipeline, os.fspath(folder), **kwargs)
    path = folder / pipeline.config_name
    named = save_code(type(pipeline), folder)
    index = {
        # a list would send diffusers to look for code
        "_class_name": named[1] if is_stock(type(pipeline)) else named,
        "_diffusers_version": json.loads(path.read_text())["_diffusers_version"],
        **index,
        **{name: save_code(type(part), folder / name) for name, part in pipeline.components.items()},
    }
    path.write_text(json.dumps(index, indent=2) + "\n")
    if push is not None:
        hub |= {k: kwargs[k] for k in ("safe_serialization", "variant") if k in kwargs}
        push(hub.pop("repo_id", folder.resolve().name), **hub)


# Copied from hfgen.pipelines.saving.save_code
def save_code(cls: type, folder: Path) -> list[str]:
    """Copy the file of a class that diffusers has not; returns [module, class] as `model_index.json` names it."""
    if is_stock(cls):
        return ["diffusers", cls.__name__]
    source = Path(inspect.getsourcefile(cls))
    if source.resolve() != (folder / source.name).resolve():
        shutil.copyfile(source, folder / source.name)
    return [source.stem, cls.__name__]


# Copied from hfgen.pipelines.saving.is_stock
def is_stock(cls: type) -> bool:
    """Whether diffusers has the class."""
    return cls.__module__.split(".")[0] == "diffusers"


# Copied from hfgen.pipelines.saving.without_origin
def without_origin(model: ModelMixin) -> ModelMixin:
    """`model`, its weights shared, without the path that it was loaded from in its config."""
    model = copy.copy(getattr(model, "_orig_mod", model))
    model._internal_dict = type(model.config)({k: v for k, v in model.config.items() if k != "_name_or_path"})
    return model


# Copied from hfgen.pipelines.saving.scheduler_to_save
def scheduler_to_save(scheduler: SchedulerMixin) -> SchedulerMixin:
    """The scheduler of diffusers that does what `scheduler` does, or `scheduler`, if it knows what they do not.

    A `DDPMScheduler` of another class becomes that very class, with the keys of its config and no other; but one whose
    prediction_type is "mu", which diffusers has not, stays, and its code is saved with it.

    Raises `ValueError` if the betas differ, or if there is no such scheduler.
    """
    if is_stock(type(scheduler)) or scheduler.config.get("prediction_type") == "mu":
        return scheduler
    if not isinstance(scheduler, DDPMScheduler):
        raise ValueError(f"{type(scheduler).__name__} is not a scheduler of diffusers: this pipeline saves no code")
    known = set(inspect.signature(DDPMScheduler.__init__).parameters) - {"self"}
    stock = DDPMScheduler(**{k: v for k, v in scheduler.config.items() if k in known})
    if not torch.allclose(stock.betas.double(), scheduler.betas.double(), rtol=1e-5, atol=0):
        raise ValueError(
            f"{type(scheduler).__name__}: DDPMScheduler makes other betas from its config; set trained_betas"
        )
    return stock


# Copied from hfgen.process.parameterization.epsilon_from_prediction
def epsilon_from_prediction(
    prediction_type: str, output: torch.Tensor, x_t: torch.Tensor, alpha_bar: torch.Tensor
) -> torch.Tensor:
    """The noise in x_t that a prediction says; `alpha_bar` is broadcast with it.

    Raises `ValueError` for a prediction_type other than epsilon, sample and v_prediction.

    Source: Ho et al. 2020, equation 4; Salimans & Ho 2022, appendix D.
    """
    if prediction_type == "epsilon":
        return output
    if prediction_type == "v_prediction":
        return alpha_bar.sqrt() * output + (1 - alpha_bar).sqrt() * x_t
    if prediction_type == "sample":
        return (x_t - alpha_bar.sqrt() * output) / (1 - alpha_bar).sqrt()
    raise ValueError(f"prediction_type={prediction_type!r}: known here are epsilon, sample and v_prediction")
