"""A hierarchical VAE as a pipeline: generate, reconstruct, encode, interpolate, by layer. This file needs diffusers and what comes with it alone."""

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

# Copied from hfgen.pipelines.pipeline_hfgen_vae.PATHS
PATHS = ("spherical", "linear")
# Copied from hfgen.pipelines.denoising.OUTPUT_TYPES
OUTPUT_TYPES = ("pil", "np", "pt")
# Copied from hfgen.pipelines.denoising.Generators
Generators = torch.Generator | list[torch.Generator] | None
# Copied from hfgen.pipelines.saving.HUB_LOADING
HUB_LOADING = ("cache_dir", "token", "revision", "local_files_only", "force_download")
# Copied from hfgen.pipelines.saving.HUB_PUSHING
HUB_PUSHING = ("repo_id", "commit_message", "private", "token", "create_pr")


class MHVAEPipeline(DiffusionPipeline):
    """Images from the chain of latents of a hierarchical VAE, and latents from images. Layers count from 1, next to the image, to T.

    Images go in as PIL images, numpy arrays or tensors (see `preprocess`) and come out by `output_type`: "pil", "np" of
    (B, H, W, C) or "pt" of (B, C, H, W), values of both in [0, 1]. They are means of p(x|z_1), or draws from it where
    `sample_pixels` asks for them. `batch_size` is how many images go through the network at once, in all but `__call__`.

    What `save_pretrained` and `push_to_hub` leave holds this file and the model's, so that
    `DiffusionPipeline.from_pretrained(..., trust_remote_code=True)` loads it where this project is not installed.

    Args:
        vae: with `encode`, `posterior`, `prior`, `decode_outputs`, `latent_sizes`, `likelihood` and a config of in_channels and
            sample_size.
    """

    model_classes: ClassVar[dict[str, type]] = {}

    def __init__(self, vae: ModelMixin):
        super().__init__()
        self.register_modules(vae=vae)

    @property
    def num_layers(self) -> int:
        """T."""
        return len(self.vae.latent_sizes)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: Generators = None,
        latents: torch.Tensor | None = None,
        sample_pixels: bool = False,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """Draw `batch_size` images: z_T ~ N(0, I), z_{t-1} ~ p(z_{t-1}|z_t), then the mean of p(x|z_1), or a draw from it.

        Args:
            generator: one for the batch, or a list of one for each image: an image then depends on its own alone.
            latents: z_T of (B, latent_sizes[-1]) instead of drawing it; `batch_size` is then not used.

        Returns an `ImagePipelineOutput` with `images`, or the tuple (images,). Raises `ValueError` for an argument out of its range.
        """
        size = self.vae.latent_sizes[-1]
        if latents is None:
            _check_count("batch_size", batch_size)
            _check_generators(generator, batch_size)
            like = torch.empty(batch_size, size, device=self._execution_device, dtype=self.vae.dtype)
            latents = _normal(like, generator)
        elif latents.ndim != 2 or latents.shape[1] != size:
            raise ValueError(f"latents of shape {tuple(latents.shape)}: the last layer of this model is (B, {size})")
        else:
            _check_generators(generator, len(latents))
            latents = latents.to(self._execution_device, self.vae.dtype)
        z = self._down(latents, self.num_layers, generator, sample_prior=True)
        images = self._decode(z, batch_size=len(z), generator=generator, sample_pixels=sample_pixels)
        return finish(self, images, output_type, return_dict)

    @torch.no_grad()
    def encode(self, images: Any, layer: int = 1, generator: Generators = None, batch_size: int = 256) -> Any:
        """q(z_t|z_{t-1}) of t = `layer` at the means of the layers below: `mean`, `logvar`, `std` and `var` of (B, latent_sizes[t - 1]).

        It has `sample(generator)` too. A model of binarised pixels gets them drawn (white with the probability of the grey value) by
        `generator`, or without one black below 0.5 and white from there on. Raises `ValueError` as `preprocess`, and for a layer
        that there is not.
        """
        self._check_layer(layer)
        x = self.preprocess(images)
        _check_count("batch_size", batch_size)
        _check_generators(generator, len(x))
        x = self._binarized(x, generator)
        parts = [self._up(part.to(self._execution_device), layer) for part in x.split(batch_size)]
        return type(parts[0])(torch.cat([p.mean for p in parts]), torch.cat([p.logvar for p in parts]))

    @torch.no_grad()
    def reconstruct(
        self,
        images: Any,
        layer: int = 1,
        sample_posterior: bool = False,
        sample_prior: bool = True,
        sample_pixels: bool = False,
        generator: Generators = None,
        output_type: str = "pil",
        batch_size: int = 256,
        draws: Generators = None,
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """What the layers from `layer` on hold of images: z_t of t = `layer` by the encoder, the layers below anew by the model.

        z_t is the mean of q at the means of the layers below it, or with `sample_posterior` a draw; the layers below are then
        drawn from p(z_{t-1}|z_t), or with `sample_prior` False are its means. Pixels are binarised as in `encode`.

        Args:
            generator: of the binarised pixels, z_t and what follows; one, or a list of one for each image.
            draws: of the layers below and the pixels alone, in place of `generator`: other draws of the same z_t.
        """
        posterior = self.encode(images, layer, generator, batch_size)
        z = posterior.sample(generator) if sample_posterior else posterior.mode()
        draws = generator if draws is None else draws
        _check_generators(draws, len(z))
        z = self._down(z, layer, draws, sample_prior)
        images = self._decode(z, batch_size=batch_size, generator=draws, sample_pixels=sample_pixels)
        return finish(self, images, output_type, return_dict)

    @torch.no_grad()
    def interpolate(
        self,
        a: Any,
        b: Any,
        steps: int = 8,
        layer: int = 1,
        path: str = "spherical",
        output_type: str = "pil",
        batch_size: int = 256,
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """`steps` images from `a` to `b`, both ends included, between the means of a layer, and by means down from there.

        `a` and `b` hold as many images each; of several the walks come one after another, len(a) * steps images.
        "linear" takes a straight line; "spherical" turns the direction evenly and changes the length linearly, which
        keeps to where N(0, I) has its mass when there are many latents (White 2016).

        Raises `ValueError` for fewer than 2 steps, an unknown path or layer, another number of images in `a` than in `b`.
        """
        if steps < 2:
            raise ValueError(f"steps={steps}: at least 2, the two ends")
        if path not in PATHS:
            raise ValueError(f"path={path!r}: choose one of {', '.join(PATHS)}")
        start, end = (self.encode(images, layer, batch_size=batch_size).mode() for images in (a, b))
        if len(start) != len(end):
            raise ValueError(f"{len(start)} images in a and {len(end)} in b: pass as many in each")
        share = torch.linspace(0, 1, steps, device=start.device, dtype=start.dtype)[None, :, None]
        walk = _spherical if path == "spherical" else torch.lerp
        z = walk(start[:, None], end[:, None], share).flatten(0, 1)
        z = self._down(z, layer, None, sample_prior=False)
        return finish(self, self._decode(z, batch_size=batch_size), output_type, return_dict)

    def _up(self, x: torch.Tensor, layer: int) -> Any:
        """q(z_t|z_{t-1}) of t = `layer`, at the means of q below it."""
        posterior = self.vae.encode(x).latent_dist
        for above in range(2, layer + 1):
            posterior = self.vae.posterior(above, posterior.mode())
        return posterior

    def _down(self, z: torch.Tensor, layer: int, generator: Generators, sample_prior: bool) -> torch.Tensor:
        """z_1 from z_t of t = `layer`, by draws from p or by its means."""
        for below in range(layer - 1, 0, -1):
            prior = self.vae.prior(below, z)
            z = prior.sample(generator) if sample_prior else prior.mode()
        return z

    def _check_layer(self, layer: int) -> None:
        if not 1 <= layer <= self.num_layers:
            raise ValueError(f"layer={layer}: this model has the layers 1 to {self.num_layers}")

    # Copied from hfgen.pipelines.pipeline_hfgen_vae.VAEPipeline.preprocess
    def preprocess(self, images: Any) -> torch.Tensor:
        """Images as a tensor (B, C, H, W) in [-1, 1].

        Takes a PIL image or a list of them, a numpy array (B, H, W, C), (H, W, C) or of grey images (H, W), a tensor
        (B, C, H, W) or (C, H, W), or a list of arrays or tensors of single images. Numbers are uint8 in 0..255 or
        floating point in [0, 1].

        Raises `ValueError` for another type, size, number of channels, or range, and for no image at all.
        """
        config = self.vae.config
        shape = (config.in_channels, config.sample_size, config.sample_size)
        return images_to_tensor(images, shape).to(self.vae.dtype)

    # Copied from hfgen.pipelines.pipeline_hfgen_vae.VAEPipeline._binarized
    def _binarized(self, x: torch.Tensor, generator: Generators) -> torch.Tensor:
        if self.vae.likelihood.binarization is None:
            return x
        if generator is None:
            return torch.where(x < 0, -1.0, 1.0).to(x.dtype)
        if isinstance(generator, list):
            return torch.cat([self._binarized(row[None], g) for row, g in zip(x, generator, strict=True)])
        uniform = torch.rand(x.shape, generator=generator, device=generator.device).to(x.device)
        return torch.where(2 * uniform < x.to(torch.promote_types(x.dtype, uniform.dtype)) + 1, 1.0, -1.0).to(x.dtype)

    # Copied from hfgen.pipelines.pipeline_hfgen_vae.VAEPipeline._decode
    def _decode(
        self, z: torch.Tensor, *, batch_size: int, generator: Generators = None, sample_pixels: bool = False
    ) -> torch.Tensor:
        """Images (B, C, H, W) in [-1, 1]."""
        _check_count("batch_size", batch_size)
        z = z.to(self._execution_device, self.vae.dtype)
        images = []
        for first in range(0, len(z), batch_size):
            outputs = self.vae.decode_outputs(z[first : first + batch_size])
            if sample_pixels:
                # one by one also from a single generator: torch draws other numbers for other sizes
                own = generator[first:] if isinstance(generator, list) else [generator] * len(outputs)
                rows = zip(outputs.split(1), own, strict=False)
                images += [self.vae.likelihood.sample(row, g) for row, g in rows]
            else:
                images.append(self.vae.likelihood.mean(outputs))
        return torch.cat(images)

    # Copied from hfgen.pipelines.pipeline_hfgen_vae.VAEPipeline.save_pretrained
    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Save weights, configs and the code that they need; arguments as in `DiffusionPipeline.save_pretrained`.

        With `push_to_hub` the same is uploaded to `repo_id`, by default the folder's name, as `push_to_hub` does.
        """
        pipeline = copy.copy(self)
        pipeline.vae = without_origin(self.vae)
        kind = type(pipeline.vae)
        auto_map = {"AutoModel": f"{Path(inspect.getsourcefile(kind)).stem}.{kind.__name__}"}
        push = self.push_to_hub if push_to_hub else None
        save_with_code(pipeline, save_directory, index={"auto_map": auto_map}, push=push, **kwargs)

    # Copied from hfgen.pipelines.pipeline_hfgen_vae.VAEPipeline.extract_init_dict
    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> tuple:
        """As in `ConfigMixin`, without "auto_map", by which `AutoModel` finds a class: it is not an argument of one."""
        return super().extract_init_dict({k: v for k, v in config_dict.items() if k != "auto_map"}, **kwargs)

    # Copied from hfgen.pipelines.pipeline_hfgen_vae.VAEPipeline.from_pretrained
    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> DiffusionPipeline:
        """Load a folder or repository; arguments as in `DiffusionPipeline.from_pretrained`.

        Where this project is installed its own classes are used and no code of the repository is run.
        """
        if not cls.model_classes:
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        if "vae" in kwargs:
            return cls(kwargs["vae"])
        kwargs.pop("trust_remote_code", None)
        path = os.fspath(pretrained_model_name_or_path)
        known = next(iter(cls.model_classes.values()))
        hub = {k: v for k, v in kwargs.items() if k in HUB_LOADING}
        name = known.load_config(path, subfolder="vae", **hub).get("_class_name")
        if name not in cls.model_classes:
            raise ValueError(f"{path} holds a {name}: this pipeline has a vae of {', '.join(cls.model_classes)}")
        vae = cls.model_classes[name].from_pretrained(path, subfolder="vae", **{"use_safetensors": True, **kwargs})
        return cls(vae)


def _normal(like: torch.Tensor, generator: Generators) -> torch.Tensor:
    """Numbers of the shape of `like`; a list holds a generator for each row."""
    if isinstance(generator, list):
        return torch.cat([_normal(row[None], g) for row, g in zip(like, generator, strict=True)])
    device = like.device if generator is None else generator.device
    return torch.randn(like.shape, generator=generator, device=device, dtype=like.dtype).to(like.device)


# Copied from hfgen.pipelines.pipeline_hfgen_vae._check_count
def _check_count(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name}={value}: at least 1")


# Copied from hfgen.pipelines.pipeline_hfgen_vae._check_generators
def _check_generators(generator: Generators, count: int) -> None:
    if isinstance(generator, list) and len(generator) != count:
        raise ValueError(f"{len(generator)} generators for {count} images: pass one for each image, or one")


# Copied from hfgen.pipelines.pipeline_hfgen_vae._spherical
def _spherical(a: torch.Tensor, b: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """The direction turned evenly from a's to b's, the length changed linearly; a straight line where it is undefined."""
    lengths = [v.norm(dim=-1, keepdim=True) for v in (a, b)]
    unit_a, unit_b = (v / length.clamp(min=1e-12) for v, length in zip((a, b), lengths, strict=True))
    angle = (unit_a * unit_b).sum(-1, keepdim=True).clamp(-1, 1).acos()
    direction = (((1 - share) * angle).sin() * unit_a + (share * angle).sin() * unit_b) / angle.sin()
    turned = direction * torch.lerp(*lengths, share)
    return torch.where((angle.sin() > 1e-4) & (lengths[0] * lengths[1] > 0), turned, torch.lerp(a, b, share))


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
