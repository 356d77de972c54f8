"""Images of chosen classes, with classifier-free guidance. This file needs torch and diffusers alone."""

from __future__ import annotations

import copy
import inspect
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import ClassVar

import diffusers
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline, ImagePipelineOutput, UNet2DModel
from diffusers.utils.torch_utils import randn_tensor

OUTPUT_TYPES = ("pil", "np", "pt")
HUB_LOADING = ("cache_dir", "token", "revision", "local_files_only", "force_download")
Generators = torch.Generator | list[torch.Generator] | None


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

    runs_own_code: ClassVar[bool] = False
    own_schedulers: ClassVar[dict[str, type]] = {}

    def __init__(self, unet, scheduler, class_names: Sequence[str] | dict[str, str] | None = None):
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
        self.register_to_config(class_names=_by_number(names))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs):
        """Load a folder or repository; arguments as in `DiffusionPipeline.from_pretrained`.

        Where this project is installed its own class is used and no code of the repository is run.
        """
        if not cls.runs_own_code:
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
        class_labels: int | str | Sequence[int | str] | torch.Tensor,
        guidance_scale: float = 1.0,
        generator: Generators = None,
        num_inference_steps: int | None = None,
        eta: float = 0.0,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable | None = None,
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
        check_inputs(self, len(labels), generator, num_inference_steps, eta, output_type)
        if not 0 <= guidance_scale < float("inf"):
            raise ValueError(f"guidance_scale={guidance_scale}: use 0 or more; 1 is no guidance")
        predict = self._guided(torch.tensor(labels, device=self._execution_device), guidance_scale)
        timesteps = set_timesteps(self, num_inference_steps)
        image = initial_noise(self, len(labels), generator)
        image = denoise(self, predict, image, timesteps, generator, eta, callback_on_step_end)
        return finish(self, image, output_type, return_dict)

    def label_numbers(self, class_labels) -> list[int]:
        """Numbers of classes given by number or name; `ValueError` for one that there is not, and for none."""
        if isinstance(class_labels, torch.Tensor):
            class_labels = class_labels.tolist()
        one = isinstance(class_labels, str) or not isinstance(class_labels, Iterable)
        labels = [class_labels] if one else list(class_labels)
        if not labels:
            raise ValueError("no class_labels: pass one for each image")
        return [self._label_number(label) for label in labels]

    def _label_number(self, label) -> int:
        names = self.class_names
        if isinstance(label, str) and label in names:
            return names.index(label)
        if isinstance(label, str) and label.isdecimal():
            label = int(label)
        if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(names):
            return label
        raise ValueError(f"class label {label!r}: use 0..{len(names) - 1}, or a name of {', '.join(names)}")

    def _guided(self, labels: torch.Tensor, scale: float):
        """The network's output by guidance; of a learned variance the class's own half is taken."""
        nothing = torch.full_like(labels, len(self.class_names))
        if scale in (0, 1):
            chosen = labels if scale == 1 else nothing
            return lambda x, t: self.unet(x, t, class_labels=chosen).sample
        both, channels = torch.cat([labels, nothing]), self.unet.config.in_channels

        def predict(x, t):
            with_class, without = self.unet(torch.cat([x, x]), t, class_labels=both).sample.chunk(2)
            output, base = with_class[:, :channels], without[:, :channels]
            return torch.cat([base + scale * (output - base), with_class[:, channels:]], dim=1)

        return predict

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs):
        """Save weights, configs and this file; arguments as in `DiffusionPipeline.save_pretrained`.

        With `push_to_hub` the same is uploaded to `repo_id`, by default the folder's name, as `push_to_hub` does.
        """
        pipeline = copy.copy(self)
        pipeline.unet, pipeline.scheduler = without_origin(self.unet), scheduler_to_save(self.scheduler)
        code = Path(inspect.getsourcefile(type(self)))
        index = {"_class_name": [code.stem, type(self).__name__], "class_names": _by_number(self.class_names)}
        save = super(ClassConditionalDDPMPipeline, pipeline).save_pretrained
        save_with_code(self, pipeline, save, save_directory, index, [code], push_to_hub, kwargs)


def _by_number(names: list[str]) -> dict[str, str]:
    """As it stands in model_index.json, where diffusers takes a list for a component."""
    return {str(i): name for i, name in enumerate(names)}


HUB_ARGUMENTS = ("repo_id", "commit_message", "private", "token", "create_pr")


def save_with_code(original, pipeline, save, save_directory, index, code, push_to_hub, kwargs):
    """Let `save` write `pipeline`, then the files `code` and what `index` says beside it; push `original` if asked for.

    The scheduler is named by its class in diffusers, or by its own file, which is copied too.
    """
    folder = Path(save_directory)
    hub = {k: kwargs.pop(k) for k in HUB_ARGUMENTS if k in kwargs}
    save(os.fspath(folder), **kwargs)
    scheduler = type(pipeline.scheduler)
    module = "diffusers"
    if not is_stock(scheduler):
        source = Path(inspect.getsourcefile(scheduler))
        module = source.stem
        _copy(source, folder / "scheduler")
    for source in code:
        _copy(source, folder)
    written = json.loads((folder / pipeline.config_name).read_text())
    index = {
        "_diffusers_version": written["_diffusers_version"],
        **index,
        "scheduler": [module, scheduler.__name__],
        "unet": ["diffusers", type(pipeline.unet).__name__],
    }
    (folder / pipeline.config_name).write_text(json.dumps(index, indent=2) + "\n")
    if push_to_hub:
        hub |= {k: kwargs[k] for k in ("safe_serialization", "variant") if k in kwargs}
        original.push_to_hub(hub.pop("repo_id", folder.resolve().name), **hub)


def _copy(source: Path, folder: Path):
    if source.resolve() != (folder / source.name).resolve():
        shutil.copyfile(source, folder / source.name)


def check_inputs(pipeline, batch_size, generator, num_inference_steps, eta, output_type):
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
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type={output_type!r}: choose one of {', '.join(OUTPUT_TYPES)}")


def set_timesteps(pipeline, num_inference_steps: int) -> torch.Tensor:
    """Set the scheduler to `num_inference_steps` and return its timesteps, on the CPU, one for each UNet call.

    Where the rounding of diffusers gives a timestep of -1 (61 "trailing" steps of 1000) or one twice, they are set exactly.

    Raises `ValueError` for fractional timesteps on a UNet with a learned embedding of integer ones, and for a number of
    steps that the scheduler cannot take.
    """
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(num_inference_steps)
    if scheduler.timesteps.min() < 0 or len(scheduler.timesteps.unique()) < num_inference_steps:
        _set_exactly(scheduler, num_inference_steps)
    _check_stride(scheduler, num_inference_steps)
    timesteps = scheduler.timesteps
    if timesteps.is_floating_point() and pipeline.unet.config.time_embedding_type == "learned":
        raise ValueError(
            f"{type(scheduler).__name__} asks for fractional timesteps, but this UNet has an embedding for each "
            "integer timestep: use DDPMScheduler, DDIMScheduler, DPMSolverMultistepScheduler or UniPCMultistepScheduler"
        )
    return timesteps


def _set_exactly(scheduler, steps: int):
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


def _check_stride(scheduler, steps: int):
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


def initial_noise(pipeline, batch_size: int, generator: Generators) -> torch.Tensor:
    """x_T for the scheduler, (B, C, H, W)."""
    size = pipeline.unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    shape = (batch_size, pipeline.unet.config.in_channels, height, width)
    device = pipeline._execution_device
    # randn does not work reproducibly on mps
    draw_on = torch.device("cpu") if device.type == "mps" else device
    noise = randn_tensor(shape, generator=generator, device=draw_on, dtype=pipeline.unet.dtype)
    return noise.to(device) * pipeline.scheduler.init_noise_sigma


def denoise(pipeline, predict, image, timesteps, generator, eta, callback_on_step_end) -> torch.Tensor:
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
    step_kwargs = {k: v for k, v in step_kwargs.items() if k in accepted}
    with pipeline.progress_bar(total=len(timesteps)) as bar:
        for i, t in enumerate(timesteps):
            output = for_scheduler(pipeline, predict(scheduler.scale_model_input(image, t), unet_timesteps[i]))
            output = scheduler.step(output, t, image, **step_kwargs)
            image = output.prev_sample
            if callback_on_step_end is not None:
                tensors = {"latents": image, "pred_original_sample": getattr(output, "pred_original_sample", None)}
                image = (callback_on_step_end(pipeline, i, t, tensors) or {}).get("latents", image)
            bar.update()
    return image


def finish(pipeline, image: torch.Tensor, output_type: str, return_dict: bool) -> ImagePipelineOutput | tuple:
    """Images in [-1, 1] as a pipeline gives them."""
    image = (image / 2 + 0.5).clamp(0, 1)
    if output_type != "pt":
        image = image.cpu().permute(0, 2, 3, 1).float().numpy()
    if output_type == "pil":
        image = pipeline.numpy_to_pil(image)
    pipeline.maybe_free_model_hooks()
    return ImagePipelineOutput(images=image) if return_dict else (image,)


def is_stock(cls: type) -> bool:
    """Whether diffusers has the class."""
    return cls.__module__.split(".")[0] == "diffusers"


def scheduler_to_save(scheduler):
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


def for_scheduler(pipeline, output: torch.Tensor) -> torch.Tensor:
    """What the scheduler takes of the network's output: both halves of (B, 2C, H, W) only if it knows learned variances."""
    learned = pipeline.scheduler.config.get("variance_type") in ("learned", "learned_range")
    takes_both = learned and isinstance(pipeline.scheduler, DDPMScheduler)
    return output if takes_both else output[:, : pipeline.unet.config.in_channels]


def without_origin(model):
    """`model`, its weights shared, without the path that it was loaded from in its config."""
    model = copy.copy(getattr(model, "_orig_mod", model))
    model._internal_dict = type(model.config)({k: v for k, v in model.config.items() if k != "_name_or_path"})
    return model
