"""A VAE as a pipeline: generate, reconstruct, encode, interpolate. This file needs torch and diffusers alone."""

from __future__ import annotations

import copy
import inspect
import json
import math
import os
import shutil
from pathlib import Path
from typing import ClassVar

import numpy as np
import PIL.Image
import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor

OUTPUT_TYPES = ("pil", "np", "pt")
PATHS = ("spherical", "linear")
GENERATORS = torch.Generator | list[torch.Generator] | None


class VAEPipeline(DiffusionPipeline):
    """Images from the latents of a VAE with p(z) = N(0, I), and latents from images (Kingma & Welling 2014).

    Images go in as PIL images, numpy arrays or tensors (see `preprocess`) and come out by `output_type`: "pil", "np" of
    (B, H, W, C) or "pt" of (B, C, H, W), values of both in [0, 1]. They are means of p(x|z), or draws from it where
    `sample_pixels` asks for them. `batch_size` is how many images go through the network at once, in all but `__call__`.

    What `save_pretrained` and `push_to_hub` leave holds this file and the model's, so that
    `DiffusionPipeline.from_pretrained(..., trust_remote_code=True)` loads it where this project is not installed.

    Args:
        vae: with `encode`, `decode_outputs`, `likelihood` and a config of in_channels, sample_size and latent_size.
    """

    model_classes: ClassVar[dict[str, type]] = {}

    def __init__(self, vae):
        super().__init__()
        self.register_modules(vae=vae)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: GENERATORS = None,
        latents: torch.Tensor | None = None,
        sample_pixels: bool = False,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """Draw `batch_size` images: z ~ N(0, I), then the mean of p(x|z), or a draw from it with `sample_pixels`.

        Args:
            generator: one for the batch, or a list of one for each image: an image then depends on its own alone.
            latents: z of (B, latent_size) to decode instead of drawing it; `batch_size` is then not used.

        Returns an `ImagePipelineOutput` with `images`, or the tuple (images,). Raises `ValueError` for an argument out of its range.
        """
        if latents is None:
            _check_count("batch_size", batch_size)
            _check_generators(generator, batch_size)
            shape = (batch_size, self.vae.config.latent_size)
            latents = randn_tensor(shape, generator, self._execution_device, self.vae.dtype)
        elif latents.ndim != 2:
            raise ValueError(
                f"latents of shape {tuple(latents.shape)}: this model takes (B, {self.vae.config.latent_size})"
            )
        else:
            _check_generators(generator, len(latents))
        images = self._decode(latents, generator, sample_pixels, len(latents))
        return self._output(images, output_type, return_dict)

    @torch.no_grad()
    def encode(self, images, generator: GENERATORS = None, batch_size: int = 256):
        """q(z|x) of the images: `mean`, `logvar`, `std` and `var` of (B, latent_size), `sample(generator)`, `kl()` in nats.

        A model of binarised pixels gets them drawn (white with the probability of the grey value) by `generator`, or
        without one black below 0.5 and white from there on. Raises `ValueError` as `preprocess`.
        """
        x = self.preprocess(images)
        _check_count("batch_size", batch_size)
        _check_generators(generator, len(x))
        x = self._binarized(x, generator)
        parts = [self.vae.encode(part.to(self._execution_device)).latent_dist for part in x.split(batch_size)]
        return type(parts[0])(torch.cat([p.mean for p in parts]), torch.cat([p.logvar for p in parts]))

    @torch.no_grad()
    def reconstruct(
        self,
        images,
        sample_posterior: bool = False,
        sample_pixels: bool = False,
        generator: GENERATORS = None,
        output_type: str = "pil",
        batch_size: int = 256,
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """Encode and decode: z is the mean of q(z|x), or a draw with `sample_posterior`; binarised as in `encode`."""
        posterior = self.encode(images, generator, batch_size)
        z = posterior.sample(generator) if sample_posterior else posterior.mode()
        return self._output(self._decode(z, generator, sample_pixels, batch_size), output_type, return_dict)

    @torch.no_grad()
    def interpolate(
        self,
        a,
        b,
        steps: int = 8,
        path: str = "spherical",
        output_type: str = "pil",
        batch_size: int = 256,
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """`steps` images from `a` to `b`, both ends included, between the means of their q(z|x).

        `a` and `b` hold as many images each; of several the walks come one after another, len(a) * steps images.
        "linear" takes a straight line; "spherical" turns the direction evenly and changes the length linearly, which
        keeps to where p(z) has its mass when there are many latents (White 2016).

        Raises `ValueError` for fewer than 2 steps, an unknown path, another number of images in `a` than in `b`.
        """
        if steps < 2:
            raise ValueError(f"steps={steps}: at least 2, the two ends")
        if path not in PATHS:
            raise ValueError(f"path={path!r}: choose one of {', '.join(PATHS)}")
        start, end = (self.encode(images, batch_size=batch_size).mode() for images in (a, b))
        if len(start) != len(end):
            raise ValueError(f"{len(start)} images in a and {len(end)} in b: pass as many in each")
        share = torch.linspace(0, 1, steps, device=start.device, dtype=start.dtype)[None, :, None]
        walk = _spherical if path == "spherical" else torch.lerp
        z = walk(start[:, None], end[:, None], share).flatten(0, 1)
        return self._output(self._decode(z, None, False, batch_size), output_type, return_dict)

    @torch.no_grad()
    def manifold(
        self, n: int = 20, output_type: str = "pil", batch_size: int = 256, return_dict: bool = True
    ) -> ImagePipelineOutput | tuple:
        """n * n images over a plane of two latents, row by row: z_1 grows to the right, z_2 grows upwards.

        The latents are the quantiles (i + 1/2) / n of N(0, 1), so that each image stands for an equal share of p(z).
        Source: Kingma & Welling 2014, figure 4. Raises `ValueError` for a model of another number of latents.
        """
        _check_count("n", n)
        if self.vae.config.latent_size != 2:
            raise ValueError(f"this model has {self.vae.config.latent_size} latents: a manifold is drawn of 2")
        shares = (torch.arange(n, device=self._execution_device, dtype=torch.float64) + 0.5) / n
        quantiles = torch.special.ndtri(shares)
        up, right = torch.meshgrid(quantiles.flip(0), quantiles, indexing="ij")
        z = torch.stack([right.flatten(), up.flatten()], dim=1).to(self.vae.dtype)
        return self._output(self._decode(z, None, False, batch_size), output_type, return_dict)

    def preprocess(self, images) -> torch.Tensor:
        """Images as a tensor (B, C, H, W) in [-1, 1].

        Takes a PIL image or a list of them, a numpy array (B, H, W, C), (H, W, C) or of grey images (H, W), a tensor
        (B, C, H, W) or (C, H, W), or a list of arrays or tensors of single images. Numbers are uint8 in 0..255 or
        floating point in [0, 1].

        Raises `ValueError` for another type, size, number of channels, or range, and for no image at all.
        """
        config = self.vae.config
        return images_to_tensor(images, config.in_channels, config.sample_size).to(self.vae.dtype)

    def _binarized(self, x, generator):
        if self.vae.likelihood.binarization is None:
            return x
        if generator is None:
            return torch.where(x < 0, -1.0, 1.0).to(x.dtype)
        if isinstance(generator, list):
            return torch.cat([self._binarized(row[None], g) for row, g in zip(x, generator, strict=True)])
        uniform = torch.rand(x.shape, generator=generator, device=generator.device).to(x)
        return torch.where(2 * uniform < x + 1, 1.0, -1.0).to(x.dtype)

    def _decode(self, z, generator, sample_pixels, batch_size):
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

    def _output(self, images, output_type, return_dict):
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type={output_type!r}: choose one of {', '.join(OUTPUT_TYPES)}")
        images = (images / 2 + 0.5).clamp(0, 1)
        if output_type != "pt":
            images = images.cpu().permute(0, 2, 3, 1).float().numpy()
        if output_type == "pil":
            images = self.numpy_to_pil(images)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs):
        """Save weights, configs and the code that they need; arguments as in `DiffusionPipeline.save_pretrained`.

        With `push_to_hub` the same is uploaded to `repo_id`, by default the folder's name, as `push_to_hub` does.
        """
        folder = Path(save_directory)
        hub = {k: kwargs.pop(k) for k in ("repo_id", "commit_message", "private", "token", "create_pr") if k in kwargs}
        pipeline = copy.copy(self)
        pipeline.vae = _without_origin(self.vae)
        super(VAEPipeline, pipeline).save_pretrained(os.fspath(folder), **kwargs)
        code, model = _source(type(self)), _source(type(pipeline.vae))
        if code.resolve() != (folder / code.name).resolve():
            shutil.copyfile(code, folder / code.name)
        index = json.loads((folder / self.config_name).read_text())
        index = {
            "_class_name": [code.stem, type(self).__name__],
            "_diffusers_version": index["_diffusers_version"],
            "auto_map": {"AutoModel": f"{model.stem}.{type(pipeline.vae).__name__}"},
            "vae": [model.stem, type(pipeline.vae).__name__],
        }
        (folder / self.config_name).write_text(json.dumps(index, indent=2) + "\n")
        if push_to_hub:
            hub |= {k: kwargs[k] for k in ("safe_serialization", "variant") if k in kwargs}
            self.push_to_hub(hub.pop("repo_id", folder.resolve().name), **hub)

    @classmethod
    def extract_init_dict(cls, config_dict, **kwargs):
        """As in `ConfigMixin`; what `AutoModel` needs to find the vae's class is not an argument of the pipeline."""
        return super().extract_init_dict({k: v for k, v in config_dict.items() if k != "auto_map"}, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs):
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
        hub = {
            k: v
            for k, v in kwargs.items()
            if k in ("cache_dir", "token", "revision", "local_files_only", "force_download")
        }
        name = known.load_config(path, subfolder="vae", **hub).get("_class_name")
        if name not in cls.model_classes:
            raise ValueError(f"{path} holds a {name}: this pipeline has a vae of {', '.join(cls.model_classes)}")
        vae = cls.model_classes[name].from_pretrained(path, subfolder="vae", **{"use_safetensors": True, **kwargs})
        return cls(vae)


def images_to_tensor(images, channels: int, size: int) -> torch.Tensor:
    """Images of (channels, size, size), in the forms and with the errors of `VAEPipeline.preprocess`, as floats in [-1, 1]."""
    images = images if isinstance(images, (list, tuple)) else [images]
    if not images:
        raise ValueError("no images: pass at least one")
    x = torch.cat([_as_tensor(image, channels, size) for image in images])
    if x.shape[0] == 0:
        raise ValueError("no images: pass at least one")
    return x * 2 - 1


def _as_tensor(image, channels: int, size: int) -> torch.Tensor:
    """(B, C, H, W) in [0, 1] of one element of the input."""
    if isinstance(image, PIL.Image.Image):
        return _as_tensor(np.asarray(_checked_mode(image, channels)), channels, size)
    if isinstance(image, np.ndarray):
        if image.dtype.kind not in "biuf":
            raise ValueError(f"pixels of type {image.dtype}: pass uint8 in 0..255 or floating point in [0, 1]")
        image = torch.from_numpy(np.array(image))
        image = image[..., None] if image.ndim == 2 else image
        image = image.movedim(-1, -3) if image.ndim in (3, 4) else image
    elif not isinstance(image, torch.Tensor):
        raise ValueError(f"an image of type {type(image).__name__}: pass PIL images, numpy arrays or tensors")
    image = image[None] if image.ndim == 3 else image
    if image.ndim != 4 or tuple(image.shape[1:]) != (channels, size, size):
        found = "x".join(map(str, image.shape[1:] if image.ndim == 4 else image.shape))
        raise ValueError(
            f"images of {found} (channels x height x width): this model takes {channels}x{size}x{size}; "
            "convert, resize or crop them"
        )
    return _unit_range(image).float()


def _checked_mode(image, channels: int):
    mode = {1: "L", 3: "RGB"}.get(channels)
    if image.mode == "1":
        image = image.convert("L")
    if mode is not None and image.mode != mode:
        raise ValueError(f"a PIL image of mode {image.mode}: this model takes {mode}; use image.convert({mode!r})")
    return image


def _check_count(name, value):
    if value < 1:
        raise ValueError(f"{name}={value}: at least 1")


def _check_generators(generator, count):
    if isinstance(generator, list) and len(generator) != count:
        raise ValueError(f"{len(generator)} generators for {count} images: pass one for each image, or one")


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


def _spherical(a: torch.Tensor, b: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """The direction turned evenly from a's to b's, the length changed linearly; a straight line where it is undefined."""
    lengths = [v.norm(dim=-1, keepdim=True) for v in (a, b)]
    unit_a, unit_b = (v / length.clamp(min=1e-12) for v, length in zip((a, b), lengths, strict=True))
    angle = (unit_a * unit_b).sum(-1, keepdim=True).clamp(-1, 1).acos()
    direction = (((1 - share) * angle).sin() * unit_a + (share * angle).sin() * unit_b) / angle.sin()
    turned = direction * torch.lerp(*lengths, share)
    return torch.where((angle.sin() > 1e-4) & (lengths[0] * lengths[1] > 0), turned, torch.lerp(a, b, share))


def _without_origin(model):
    """`model`, its weights shared, without the path that it was loaded from in its config."""
    model = copy.copy(getattr(model, "_orig_mod", model))
    model._internal_dict = type(model.config)({k: v for k, v in model.config.items() if k != "_name_or_path"})
    return model


def _source(cls: type) -> Path:
    return Path(inspect.getsourcefile(cls))
