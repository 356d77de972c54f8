"""Images from the generator of a GAN. This file needs diffusers and what comes with it alone."""

from __future__ import annotations

import copy
import inspect
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, ModelMixin
from diffusers.utils.torch_utils import randn_tensor

ClassLabels = int | str | Sequence[int | str] | torch.Tensor
# Copied from hfgen.pipelines.denoising.OUTPUT_TYPES
OUTPUT_TYPES = ("pil", "np", "pt")
# Copied from hfgen.pipelines.denoising.Generators
Generators = torch.Generator | list[torch.Generator] | None
# Copied from hfgen.pipelines.saving.HUB_LOADING
HUB_LOADING = ("cache_dir", "token", "revision", "local_files_only", "force_download")
# Copied from hfgen.pipelines.saving.HUB_PUSHING
HUB_PUSHING = ("repo_id", "commit_message", "private", "token", "create_pr")


class GANPipeline(DiffusionPipeline):
    """Images by a generator, of noise z ~ N(0, I) in one step (Goodfellow et al. 2014).

    What `save_pretrained` and `push_to_hub` leave holds this file and the model's, so that
    `DiffusionPipeline.from_pretrained(..., trust_remote_code=True)` loads it where this project is not installed.

    Args:
        generator: called as `generator(noise, class_labels)`, with a config of latent_size and num_classes.
        class_names: of labels 0, 1, ..., as a list or by the label, of a model that is told classes; by default their numbers.
    """

    model_class: ClassVar[type[ModelMixin] | None] = None

    def __init__(self, generator: ModelMixin, class_names: Sequence[str] | dict[str, str] | None = None):
        super().__init__()
        self.register_modules(generator=generator)
        if isinstance(class_names, dict):
            class_names = [name for _, name in sorted(class_names.items(), key=lambda item: int(item[0]))]
        count = generator.config.num_classes or 0
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
        class_labels: ClassLabels | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple:
        """Draw `batch_size` images, or one for each class.

        Args:
            generator: of random numbers, one for the batch or a list of one for each image: an image then depends on its own alone.
            class_labels: numbers or names of classes, one for each image, in place of `batch_size`; by default all in turn.
            latents: z of (B, latent_size) instead of drawing it; `batch_size` is then not used.
            output_type: "pil", "np" of (B, H, W, C) or "pt" of (B, C, H, W); values of both in [0, 1].

        Returns an `ImagePipelineOutput` with `images`, or the tuple (images,).

        Raises `ValueError` for an argument out of its range, and for classes that the model is not told.
        """
        check_output_type(output_type)
        if class_labels is not None:
            numbers = self.label_numbers(class_labels)
            batch_size = len(numbers)
        if latents is None:
            latents = self._noise(batch_size, generator)
        self._check_latents(latents, None if class_labels is None else batch_size)
        if class_labels is None:
            numbers = [i % max(1, len(self.class_names)) for i in range(len(latents))]
        labels = torch.tensor(numbers, device=self._execution_device) if self.class_names else None
        latents = latents.to(self._execution_device, self.generator.dtype)
        return finish(self, self.generator(latents, labels), output_type, return_dict)

    def _noise(self, batch_size: int, generator: Generators) -> torch.Tensor:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: at least 1 image")
        if isinstance(generator, list) and len(generator) != batch_size:
            raise ValueError(
                f"{len(generator)} generators for batch_size={batch_size}: pass one for each image, or one"
            )
        device = self._execution_device
        # randn does not work reproducibly on mps
        draw_on = torch.device("cpu") if device.type == "mps" else device
        return randn_tensor((batch_size, self.generator.config.latent_size), generator, draw_on, torch.float32)

    def _check_latents(self, latents: torch.Tensor, count: int | None) -> None:
        size = self.generator.config.latent_size
        if latents.ndim != 2 or latents.shape[1] != size:
            raise ValueError(f"latents of shape {tuple(latents.shape)}: this model takes (B, {size})")
        if count is not None and len(latents) != count:
            raise ValueError(f"{count} class_labels for {len(latents)} latents: pass one for each")

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
        generator = kwargs.pop("generator", None)
        if generator is None:
            options = {"use_safetensors": True, **kwargs}
            generator = cls.model_class.from_pretrained(path, subfolder="generator", **options)
        return cls(generator, index.get("class_names"))

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Save weights, configs and the code that they need; arguments as in `DiffusionPipeline.save_pretrained`.

        With `push_to_hub` the same is uploaded to `repo_id`, by default the folder's name, as `push_to_hub` does.
        """
        pipeline = copy.copy(self)
        pipeline.generator = without_origin(self.generator)
        index, push = {"class_names": self.config.class_names}, self.push_to_hub if push_to_hub else None
        save_with_code(pipeline, save_directory, index=index, push=push, **kwargs)


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
