"""Images from a coupling flow, and the latents of images. This file needs diffusers and what comes with it alone."""

from __future__ import annotations

import copy
import inspect
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import PIL.Image
import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, ModelMixin
from diffusers.utils.torch_utils import randn_tensor

LEVELS = 256
# Copied from hfgen.pipelines.denoising.OUTPUT_TYPES
OUTPUT_TYPES = ("pil", "np", "pt")
# Copied from hfgen.pipelines.denoising.Generators
Generators = torch.Generator | list[torch.Generator] | None
# Copied from hfgen.pipelines.saving.HUB_LOADING
HUB_LOADING = ("cache_dir", "token", "revision", "local_files_only", "force_download")
# Copied from hfgen.pipelines.saving.HUB_PUSHING
HUB_PUSHING = ("repo_id", "commit_message", "private", "token", "create_pr")


class FlowPipeline(DiffusionPipeline):
    """Images by the inverse of an invertible map from images to noise, and noise from images by the map itself.

    What `save_pretrained` and `push_to_hub` leave holds this file and the model's, so that
    `DiffusionPipeline.from_pretrained(..., trust_remote_code=True)` loads it where this project is not installed.

    Args:
        flow: with `encode`, `decode`, `latents_of`, `normal_of`, `dequantize` and a config of in_channels and sample_size.
    """

    model_class: ClassVar[type[ModelMixin] | None] = None

    def __init__(self, flow: ModelMixin):
        super().__init__()
        self.register_modules(flow=flow)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: Generators = None,
        temperature: float = 1.0,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """Draw `batch_size` images.

        Args:
            generator: one for the batch, or a list of one for each image: an image then depends on its own alone.
            temperature: standard deviation of the noise that is mapped to images; below 1 they are more typical and less varied
                than those of the model.
            latents: that noise, (B, C, H, W), instead of drawing it; `batch_size` and `temperature` are then not used.
            output_type: "pil", "np" of (B, H, W, C) or "pt" of (B, C, H, W); values of both in [0, 1], at 8-bit levels.

        Returns an `ImagePipelineOutput` with `images`, or the tuple (images,). Raises `ValueError` for an argument out of its range.
        """
        check_output_type(output_type)
        if latents is None:
            latents = self._noise(batch_size, generator, temperature)
        elif latents.ndim != 4 or tuple(latents.shape[1:]) != self._shape:
            raise ValueError(
                f"latents of shape {tuple(latents.shape)}: this model takes (B, {', '.join(map(str, self._shape))})"
            )
        u = self.flow.decode(self.flow.latents_of(latents.to(self._execution_device, torch.float32)))
        values = (u * LEVELS).floor().clamp(0, LEVELS - 1)
        return finish(self, values / 127.5 - 1, output_type, return_dict)

    @torch.no_grad()
    def encode(self, images: Any, generator: Generators = None) -> torch.Tensor:
        """The noise, (B, C, H, W), that `__call__` takes as `latents` and maps to these images again, but for rounding.

        Grey levels are dequantised at random by `generator`: an image has many such noises.

        Takes a PIL image or a list of them, a numpy array (B, H, W, C), (H, W, C) or of grey images (H, W), a tensor
        (B, C, H, W) or (C, H, W), or a list of arrays or tensors of single images. Numbers are uint8 in 0..255 or
        floating point in [0, 1]. Raises `ValueError` for another type, size, number of channels, or range, and for no image.
        """
        x = images_to_tensor(images, self._shape).to(self._execution_device)
        noise = self._draw(len(x), generator)
        if self.flow.noise is None:
            noise = torch.special.ndtr(noise)
        u, _ = self.flow.dequantize(x, noise)
        return self.flow.normal_of(self.flow.encode(u)[0])

    @property
    def _shape(self) -> tuple[int, int, int]:
        config = self.flow.config
        return config.in_channels, config.sample_size, config.sample_size

    def _noise(self, batch_size: int, generator: Generators, temperature: float) -> torch.Tensor:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: at least 1 image")
        if not 0 <= temperature < float("inf"):
            raise ValueError(f"temperature={temperature}: use 0 or more; 1 draws from the model")
        return temperature * self._draw(batch_size, generator)

    def _draw(self, batch_size: int, generator: Generators) -> torch.Tensor:
        if isinstance(generator, list) and len(generator) != batch_size:
            raise ValueError(f"{len(generator)} generators for {batch_size} images: pass one for each image, or one")
        device = self._execution_device
        # randn does not work reproducibly on mps
        draw_on = torch.device("cpu") if device.type == "mps" else device
        return randn_tensor((batch_size, *self._shape), generator, draw_on, torch.float32).to(device)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> DiffusionPipeline:
        """Load a folder or repository; arguments as in `DiffusionPipeline.from_pretrained`.

        Where this project is installed its own class is used and no code of the repository is run.
        """
        if cls.model_class is None:
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        kwargs.pop("trust_remote_code", None)
        path = os.fspath(pretrained_model_name_or_path)
        flow = kwargs.pop("flow", None)
        if flow is None:
            flow = cls.model_class.from_pretrained(path, subfolder="flow", **{"use_safetensors": True, **kwargs})
        return cls(flow)

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Save weights, configs and the code that they need; arguments as in `DiffusionPipeline.save_pretrained`.

        With `push_to_hub` the same is uploaded to `repo_id`, by default the folder's name, as `push_to_hub` does.
        """
        pipeline = copy.copy(self)
        pipeline.flow = without_origin(self.flow)
        push = self.push_to_hub if push_to_hub else None
        save_with_code(pipeline, save_directory, index={}, push=push, **kwargs)


# Copied from hfgen.pipelines.denoising.check_output_type
def check_output_type(output_type: str) -> None:
    """Raise `ValueError` for a form of images that `finish` does not know."""
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type={output_type!r}: choose one of {', '.join(OUTPUT_TYPES)}")


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
