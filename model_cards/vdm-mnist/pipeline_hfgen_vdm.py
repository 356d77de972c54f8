"""Images from a variational diffusion model. This file needs diffusers and what comes with it alone."""

from __future__ import annotations

import copy
import inspect
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline, ImagePipelineOutput, ModelMixin, UNet2DModel
from diffusers.utils.torch_utils import randn_tensor

ClassLabels = int | str | Sequence[int | str] | torch.Tensor
LEVELS = 256
# Copied from hfgen.pipelines.denoising.OUTPUT_TYPES
OUTPUT_TYPES = ("pil", "np", "pt")
# Copied from hfgen.pipelines.denoising.Generators
Generators = torch.Generator | list[torch.Generator] | None
# Copied from hfgen.pipelines.saving.HUB_LOADING
HUB_LOADING = ("cache_dir", "token", "revision", "local_files_only", "force_download")
# Copied from hfgen.pipelines.saving.HUB_PUSHING
HUB_PUSHING = ("repo_id", "commit_message", "private", "token", "create_pr")
OnStepEnd = Callable[[DiffusionPipeline, int, torch.Tensor, dict[str, Any]], dict[str, Any] | None]


class VDMPipeline(DiffusionPipeline):
    """Images by ancestral sampling with any number of steps, and 8-bit pixels from the model's own decoder (Kingma et al. 2021).

    What `save_pretrained` and `push_to_hub` leave holds this file and the model's, so that
    `DiffusionPipeline.from_pretrained(..., trust_remote_code=True)` loads it where this project is not installed. `to_ddpm` makes
    a stock pipeline of a network that diffusers has.

    Args:
        vdm: the network, called as `vdm(z, gamma, class_labels)`, with its noise schedule as `vdm.schedule(t)`.
        class_names: of labels 0, 1, ..., as a list or by the label, of a model that was told classes; by default their numbers.
    """

    model_class: ClassVar[type[ModelMixin] | None] = None

    def __init__(self, vdm: ModelMixin, class_names: Sequence[str] | dict[str, str] | None = None):
        super().__init__()
        self.register_modules(vdm=vdm)
        if isinstance(class_names, dict):
            class_names = [name for _, name in sorted(class_names.items(), key=lambda item: int(item[0]))]
        count = vdm.config.num_classes or 0
        names = [str(i) for i in range(count)] if class_names is None else [str(name) for name in class_names]
        if len(names) != count:
            raise ValueError(
                f"{len(names)} class_names for {count} classes: pass one for each, in the order of the labels"
            )
        # a dict, as diffusers takes a list in model_index.json for a component
        self.register_to_config(class_names={str(i): name for i, name in enumerate(names)} or None)

    @property
    def class_names(self) -> list[str]:
        """Of labels 0, 1, ...; none where the model is told no classes."""
        return list((self.config.class_names or {}).values())

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: Generators = None,
        num_inference_steps: int = 250,
        class_labels: ClassLabels | None = None,
        guidance_scale: float = 1.0,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: OnStepEnd | None = None,
    ) -> ImagePipelineOutput | tuple:
        """Draw `batch_size` images, or one for each class.

        Args:
            generator: one for the batch, or a list of one for each image: an image then depends on its own alone.
            num_inference_steps: T of the chain that is run, from t = 1 to 0 in equal parts.
            class_labels: numbers or names of classes, one for each image, in place of `batch_size`; by default none.
            guidance_scale: w in out_u + w (out_c - out_u), with out_c and out_u the predictions with the class and without. Other
                than 0 and 1 it takes two network evaluations a step.
            output_type: "pil", "np" of (B, H, W, C) or "pt" of (B, C, H, W); values of both in [0, 1], at 8-bit levels.
            callback_on_step_end: called after every step as (pipeline, step, t, tensors) with the tensor "latents", z_s of
                (B, C, H, W). A "latents" in the dict that it returns replaces it.

        Returns an `ImagePipelineOutput` with `images`, or the tuple (images,).

        Raises `ValueError` for an argument out of its range, and for classes that the model was not told.

        Source: Kingma et al. 2021, appendix A.4.
        """
        labels = None if class_labels is None else self.label_numbers(class_labels)
        batch_size = batch_size if labels is None else len(labels)
        _check_inputs(batch_size, generator, num_inference_steps, guidance_scale)
        check_output_type(output_type)
        predict = self._guided(labels, guidance_scale)
        z = self._noise(batch_size, generator)
        for step, t, s in self._steps(num_inference_steps):
            z = self._step(z, t, s, predict, lambda: self._noise(batch_size, generator))
            if callback_on_step_end is not None:
                z = (callback_on_step_end(self, step, t, {"latents": z}) or {}).get("latents", z)
        return finish(self, self.decode(z), output_type, return_dict)

    def _steps(self, count: int) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """The step's number, t and s, from 1 to 0, in the precision of the schedule."""
        times = torch.linspace(1, 0, count + 1, device=self._execution_device, dtype=self._precision)
        for step in self.progress_bar(range(count)):
            yield step, times[step], times[step + 1]

    @property
    def _precision(self) -> torch.dtype:
        return torch.float32 if self._execution_device.type == "mps" else torch.float64

    def _step(
        self,
        z: torch.Tensor,
        t: torch.Tensor,
        s: torch.Tensor,
        predict: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        noise: Callable[[], torch.Tensor],
    ) -> torch.Tensor:
        """z_s of z_t, both float32: a draw from p(z_s | z_t)."""
        gamma_t, gamma_s = self.vdm.schedule(torch.stack([t, s]))
        alpha_t, alpha_s = (torch.sigmoid(-gamma).sqrt().item() for gamma in (gamma_t, gamma_s))
        sigma_t, sigma_s = (torch.sigmoid(gamma).sqrt().item() for gamma in (gamma_t, gamma_s))
        c = -torch.expm1(gamma_s - gamma_t).item()
        output = predict(z, gamma_t.float().expand(len(z)))
        eps_hat = output if self.vdm.config.prediction_type == "epsilon" else alpha_t * output + sigma_t * z
        return alpha_s / alpha_t * (z - sigma_t * c * eps_hat) + sigma_s * c**0.5 * noise()

    @torch.no_grad()
    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """The likeliest 8-bit pixels of z_0, (B, C, H, W), as value / 127.5 - 1."""
        gamma_0 = self.vdm.schedule(torch.zeros(1, device=z.device, dtype=self._precision))
        f = z / torch.sigmoid(-gamma_0).sqrt().item()
        values = (f * (LEVELS / 2) + (LEVELS - 1) / 2).round().clamp(0, LEVELS - 1)
        return values / 127.5 - 1

    def _noise(self, batch_size: int, generator: Generators) -> torch.Tensor:
        config, device = self.vdm.config, self._execution_device
        # randn does not work reproducibly on mps
        draw_on = torch.device("cpu") if device.type == "mps" else device
        shape = (batch_size, config.in_channels, config.sample_size, config.sample_size)
        return randn_tensor(shape, generator=generator, device=draw_on, dtype=torch.float32).to(device)

    def _guided(self, numbers: list[int] | None, scale: float) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """The network's prediction of (z, gamma), by guidance."""
        if numbers is None:
            return lambda z, gamma: self.vdm(z, gamma).sample
        labels = torch.tensor(numbers, device=self._execution_device)
        nothing = torch.full_like(labels, len(self.class_names))
        if scale in (0, 1):
            chosen = labels if scale == 1 else nothing
            return lambda z, gamma: self.vdm(z, gamma, class_labels=chosen).sample

        def guided(z: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
            both = torch.cat([labels, nothing])
            with_class, without = self.vdm(torch.cat([z, z]), torch.cat([gamma, gamma]), both).sample.chunk(2)
            return without + scale * (with_class - without)

        return guided

    def label_numbers(self, class_labels: ClassLabels) -> list[int]:
        """Numbers of classes given by number or name; `ValueError` for one that there is not, and for none."""
        if not self.class_names:
            raise ValueError("class_labels: this model was told no classes, pass batch_size instead")
        if isinstance(class_labels, torch.Tensor):
            class_labels = class_labels.tolist()
        one = isinstance(class_labels, str) or not isinstance(class_labels, Iterable)
        labels = [class_labels] if one else list(class_labels)
        if not labels:
            raise ValueError("no class_labels: pass one for each image")
        return [self._label_number(label) for label in labels]

    # Copied from hfgen.pipelines.pipeline_hfgen_class_conditional.ClassConditionalDDPMPipeline._label_number
    def _label_number(self, label: int | str) -> int:
        names = self.class_names
        if isinstance(label, str) and label in names:
            return names.index(label)
        if isinstance(label, str) and label.isdecimal():
            label = int(label)
        if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(names):
            return label
        raise ValueError(f"class label {label!r}: use 0..{len(names) - 1}, or a name of {', '.join(names)}")

    @torch.no_grad()
    def to_ddpm(self, num_train_timesteps: int = 1000) -> DDPMPipeline:
        """A stock pipeline of T steps, gamma(0), ..., gamma(1) in equal parts of t, that needs no code of this project.

        The learned schedule becomes the scheduler's `trained_betas`, and the embedding of the noise level a table of T rows, with
        which every scheduler of diffusers that converts from `DDPMScheduler` samples. Its images lie on [-1, 1] as
        (value - 127.5) / 128, and its bound is this model's of T - 1 steps, with the decoder at t = 0: the scheduler's config says so
        to hfgen.

        Raises `ValueError` for T below 2, and for a network that diffusers has not: one with Fourier features, patches, classes or
        an epsilon that z is added to.
        """
        config = self.vdm.config
        if num_train_timesteps < 2:
            raise ValueError(f"num_train_timesteps={num_train_timesteps}: at least 2, t = 0 and t = 1")
        plain = not config.fourier_features and config.patch_size == 1 and config.prediction_type == "v_prediction"
        if not plain or config.num_classes is not None:
            raise ValueError(
                "this network is none of diffusers': a stock pipeline takes one with fourier_features=[], patch_size=1, "
                'prediction_type="v_prediction" and no classes'
            )
        gamma = self.vdm.schedule(torch.linspace(0, 1, num_train_timesteps, dtype=self._precision, device=self.device))
        scheduler = DDPMScheduler(
            num_train_timesteps,
            trained_betas=betas_of(gamma).tolist(),
            prediction_type="v_prediction",
        )
        scheduler.register_to_config(_hfgen_family="stock_vdm")
        return DDPMPipeline(_with_table(self.vdm, gamma.float()), scheduler)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> DiffusionPipeline:
        """Load a folder or repository; arguments as in `DiffusionPipeline.from_pretrained`.

        Where this project is installed its own class is used and no code of the repository is run.
        """
        if cls.model_class is None:
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        kwargs.pop("trust_remote_code", None)
        path = os.fspath(pretrained_model_name_or_path)
        index = cls.load_config(path, **{k: v for k, v in kwargs.items() if k in HUB_LOADING})
        vdm = kwargs.pop("vdm", None)
        if vdm is None:
            vdm = cls.model_class.from_pretrained(path, subfolder="vdm", **{"use_safetensors": True, **kwargs})
        return cls(vdm, index.get("class_names"))

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Save weights, configs and the code that they need; arguments as in `DiffusionPipeline.save_pretrained`.

        With `push_to_hub` the same is uploaded to `repo_id`, by default the folder's name, as `push_to_hub` does.
        """
        pipeline = copy.copy(self)
        pipeline.vdm = without_origin(self.vdm)
        index, push = {"class_names": self.config.class_names}, self.push_to_hub if push_to_hub else None
        save_with_code(pipeline, save_directory, index=index, push=push, **kwargs)


def betas_of(gamma: torch.Tensor) -> torch.Tensor:
    """The variances of a chain of T steps with these -log SNR, (T,), in their precision."""
    before = torch.cat([gamma.new_full((1,), -torch.inf), gamma[:-1]])
    return torch.sigmoid(gamma) * -torch.expm1(before - gamma)


def _with_table(vdm: ModelMixin, gamma: torch.Tensor) -> UNet2DModel:
    """The UNet of a model, told timesteps 0..T-1 in place of the gammas (T,) that they stand for."""
    unet = vdm.unet
    known = inspect.signature(UNet2DModel.__init__).parameters
    config = {name: value for name, value in unet.config.items() if name in known}
    stock = UNet2DModel(**{**config, "time_embedding_type": "learned", "num_train_timesteps": len(gamma)})
    table = unet.time_proj(vdm.noise_level(gamma))
    stock.load_state_dict({**unet.state_dict(), "time_proj.weight": table})
    return stock.to(unet.device, unet.dtype).eval()


def _check_inputs(batch_size: int, generator: Generators, num_inference_steps: int, guidance_scale: float) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: at least 1 image")
    if isinstance(generator, list) and len(generator) != batch_size:
        raise ValueError(f"{len(generator)} generators for batch_size={batch_size}: pass one for each image, or one")
    if num_inference_steps < 1:
        raise ValueError(f"num_inference_steps={num_inference_steps}: at least 1")
    if not 0 <= guidance_scale < float("inf"):
        raise ValueError(f"guidance_scale={guidance_scale}: use 0 or more; 1 is no guidance")


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
