"""Pipelines of diffusers' own, sampled and measured by samples through their own call, whatever they are made of."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

from hfgen.configs.flags import POSITIVE, flag
from hfgen.core.errors import NO_MEMORY, HfgenError, one_line
from hfgen.drawing.in_turn import classes_told, in_turn
from hfgen.families.base import PREVIEWS, Card, Family
from hfgen.families.ddpm.flags import GUIDANCE

if TYPE_CHECKING:
    import torch

# components whose config says how many labels there are, and the key that does
LABEL_COUNTS = {"unet": "num_class_embeds", "transformer": "num_embeds_ada_norm"}
LEAST_STEPS = 2
USAGE = """```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("{name}")
```

With hfgen on the command line:
"""


# of pipelines that have drawn their first image
_SHAPES: WeakKeyDictionary[Any, tuple[int, int, int]] = WeakKeyDictionary()


@dataclass(frozen=True, kw_only=True)
class StockSampling:
    """What a pipeline of diffusers is called with, where its call takes it."""

    steps: int | None = flag(None, "denoising steps; none: the pipeline's own choice", range=POSITIVE)
    class_labels: tuple[str, ...] | None = flag(None, "classes by number or name, in turn; none: all")
    guidance_scale: float | None = flag(None, "guidance; none: the pipeline's own", range=GUIDANCE)
    prompt: tuple[str, ...] | None = flag(None, "of a model that draws from words: the words, several in turn")


class Stock(Family):
    """Whatever diffusers loads without code of the repository. Its methods import what they need."""

    name = "stock"
    title = "pipeline of diffusers"
    network = "unet"
    sampling_options = StockSampling
    no_likelihood: ClassVar[str | None] = "hfgen knows no likelihood of such a pipeline of diffusers"

    def claims(self, index):
        """A pipeline class that diffusers has, of components that it takes."""
        kind = _pipeline_class(index.get("_class_name"))
        return kind is not None and set(_components(index)) <= set(inspect.signature(kind.__init__).parameters)

    def files(self, index):
        return [f"{name}/*" for name in _components(index)]

    def load(self, folder, index, variant):
        from diffusers import DiffusionPipeline

        pipeline = DiffusionPipeline.from_pretrained(folder, use_safetensors=True, variant=variant)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def module(self, pipeline):
        """The component of most parameters."""
        from torch.nn import Module

        modules = [part for part in pipeline.components.values() if isinstance(part, Module)]
        if not modules:
            raise HfgenError(f"{type(pipeline).__name__} has no network: there is nothing to draw")
        return max(modules, key=lambda module: sum(p.numel() for p in module.parameters()))

    def image_shape(self, pipeline):
        """That of an image which it draws in few steps, for no words in particular."""
        if pipeline not in _SHAPES:
            _SHAPES[pipeline] = tuple(StockSampler(pipeline, StockSampling(prompt=("",))).first_image().shape[1:])
        return _SHAPES[pipeline]

    def configs(self, pipeline):
        """Those of all components; of networks beside the largest one also what their weights are."""
        from hfgen.core.resume import tensors_digest

        configs = {}
        for name, part in pipeline.components.items():
            config = getattr(part, "config", None)
            values = config.to_dict() if hasattr(config, "to_dict") else dict(config or {})
            if hasattr(part, "state_dict") and part is not self.module(pipeline):
                values["weights"] = tensors_digest(part.state_dict())
            configs[name] = {"class": type(part).__name__, **values}
        return configs

    def for_training(self, config):
        raise HfgenError("hfgen samples and measures pipelines of diffusers' own and does not train them")

    def model_config(self, config, pretrained):
        """There is none; see `for_training`."""
        return {}

    def build(self, config, model_config, images, pretrained):
        """As `for_training`."""
        return self.for_training(config)

    def task(self, config, module, images):
        """As `for_training`."""
        return self.for_training(config)

    def sampler(self, pipeline, options, compile=False):
        if compile:
            raise HfgenError(f"compile: hfgen calls {type(pipeline).__name__} as it is: leave it out")
        return StockSampler(pipeline, options)

    def card(self, pipeline, name, training, results):
        from hfgen.families.words import parameter_words

        parts = [f"{type(part).__name__}" for part in pipeline.components.values() if part is not None]
        return Card(
            summary=f"A {type(pipeline).__name__} of diffusers, of {', '.join(parts)}: {parameter_words(self.module(pipeline))} "
            "in its largest network.",
            usage=USAGE.format(name=name),
            samples="Samples, not selected.",
        )

    def figures(self, pipeline, data, out, seed, training):
        from hfgen.core.media import image_grid, save_png
        from hfgen.drawing.draw import draw_samples

        sampler = StockSampler(pipeline, StockSampling())
        samples = draw_samples(sampler, device=pipeline.device, num_images=PREVIEWS, seed=seed)
        save_png(image_grid(samples.images), out / "samples.png")
        return [out / "samples.png"]


class StockSampler:
    """Draws by a pipeline's own call.

    Many calls draw some of their numbers from torch's global generator, whatever generators they are passed: of such the images
    are drawn one by one, from a global generator that is seeded for each. The first image finds that out.

    Raises `HfgenError` for options that the call does not take, and for what it cannot do without.
    """

    calls = 0
    fixed_batch = False

    def __init__(self, pipeline: Any, options: StockSampling):
        self.pipeline, self.name = pipeline, type(pipeline).__name__
        self.takes = inspect.signature(pipeline.__call__).parameters
        self.one_by_one: bool | None = None
        self._check_taken(options)
        self.class_names, self.wanted = self._labels(options.class_labels)
        self.prompt = options.prompt
        self.arguments: dict[str, Any] = {"output_type": "np"}
        self.how = self.name
        if "num_inference_steps" in self.takes:
            steps = options.steps or self._own_steps()
            if steps is not None:
                self.arguments["num_inference_steps"] = steps
                self.how += f", {steps} steps"
        if options.guidance_scale is not None:
            self.arguments["guidance_scale"] = options.guidance_scale
            self.how += f", guidance {options.guidance_scale:g}"
        if self.wanted is not None:
            self.how += f", {classes_told(options.class_labels)}"
        if self.prompt and any(self.prompt):
            self.how += f", {', '.join(map(repr, self.prompt))}"

    def _check_taken(self, options: StockSampling) -> None:
        names = {"steps": "num_inference_steps"}
        for option in ("steps", "class_labels", "guidance_scale", "prompt"):
            if getattr(options, option) not in (None, ("",)) and names.get(option, option) not in self.takes:
                raise HfgenError(f"--{option}: {self.name} takes none: leave it out")
        if "prompt" in self.takes and options.prompt is None:
            raise HfgenError(f"{self.name} draws from words: pass --prompt TEXT")
        given = {"class_labels", "prompt"}
        needed = [
            name
            for name, item in self.takes.items()
            if item.default is item.empty
            and item.kind not in (item.VAR_POSITIONAL, item.VAR_KEYWORD)
            and name not in given
        ]
        if needed:
            raise HfgenError(
                f"{self.name} needs {', '.join(needed)}, which hfgen does not pass: load it with DiffusionPipeline.from_pretrained"
            )

    def _own_steps(self) -> int | None:
        """What its call takes by default, and no more than its scheduler has."""
        steps = self.takes["num_inference_steps"].default
        scheduler = getattr(self.pipeline, "scheduler", None)
        T = scheduler.config.get("num_train_timesteps") if scheduler is not None else None
        return min(steps, T) if isinstance(steps, int) and isinstance(T, int) else steps

    def _labels(self, asked: Sequence[str] | None) -> tuple[list[str] | None, list[int] | None]:
        """Names of all classes and numbers of those to draw; None for a call that takes no labels."""
        count = self._label_count()
        if "class_labels" not in self.takes or (count is None and self.takes["class_labels"].default is None):
            if asked is not None:
                raise HfgenError(f"--class_labels: {self.name} is told no classes here: leave it out")
            return None, None
        by_name = getattr(self.pipeline, "labels", None) or {}
        if count is None and asked is None:
            raise HfgenError(f"{self.name} wants classes and does not say how many there are: pass --class_labels")
        numbers = range(count or 0) if asked is None else [self._label(label, by_name, count) for label in asked]
        names = {number: name for name, number in by_name.items()}
        return [names.get(i, str(i)) for i in range(count or max(numbers) + 1)], list(numbers)

    def _label_count(self) -> int | None:
        by_name = getattr(self.pipeline, "labels", None)
        if by_name:
            return max(by_name.values()) + 1
        for part, key in LABEL_COUNTS.items():
            config = getattr(getattr(self.pipeline, part, None), "config", {})
            if config.get(key) is not None:
                return config[key]
        return None

    def _label(self, label: str, by_name: Mapping[str, int], count: int | None) -> int:
        if label in by_name:
            return by_name[label]
        if str(label).isdecimal() and (count is None or int(label) < count):
            return int(label)
        upto = "a number" if count is None else f"0..{count - 1}"
        raise HfgenError(f"class label {label!r}: use {upto}{', or a name' if by_name else ''}")

    def labels(self, count: int) -> torch.Tensor | None:
        """The class that each image was asked for."""
        import torch

        return None if self.wanted is None else torch.tensor(in_turn(self.wanted, 0, count))

    def warm_up(self, generators, first) -> None:
        """Find out how images must be drawn."""
        if self.one_by_one is None:
            self.first_image()

    def first_image(self) -> torch.Tensor:
        """An image in few steps, (1, C, H, W)."""
        import torch

        device = "cpu" if self.pipeline.device.type == "mps" else self.pipeline.device
        generator = torch.Generator(device).manual_seed(0)
        cuda = [device] if self.pipeline.device.type == "cuda" else []
        with torch.random.fork_rng(cuda):
            before = _global_state(cuda)
            image = self._call([generator], 0, steps=LEAST_STEPS)
            self.one_by_one = any(not torch.equal(a, b) for a, b in zip(before, _global_state(cuda), strict=True))
        return image

    def draw(self, generators, first, on_step=None) -> torch.Tensor:
        """As `Sampler.draw`; there are no steps to tell of."""
        import torch

        self.warm_up(generators, first)
        if not self.one_by_one:
            return self._call(generators, first)
        cuda = [self.pipeline.device] if self.pipeline.device.type == "cuda" else []
        images = []
        for i, generator in enumerate(generators):
            with torch.random.fork_rng(cuda):
                torch.manual_seed(generator.initial_seed())
                images.append(self._call([generator], first + i))
        return torch.cat(images)

    def _call(self, generators: list[torch.Generator], first: int, steps: int | None = None) -> torch.Tensor:
        import numpy as np
        import torch

        from hfgen.drawing.sampler import fitting

        count, arguments = len(generators), dict(self.arguments)
        if steps is not None and "num_inference_steps" in arguments:
            arguments["num_inference_steps"] = min(steps, arguments["num_inference_steps"])
        if "generator" in self.takes:
            arguments["generator"] = generators
        if self.wanted is not None:
            arguments["class_labels"] = in_turn(self.wanted, first, count)
        if "prompt" in self.takes:
            arguments["prompt"] = in_turn(self.prompt, first, count)
        elif "batch_size" in self.takes:
            arguments["batch_size"] = count
        try:
            with fitting(count, self.pipeline.device):
                images = np.asarray(self.pipeline(**arguments).images)
        except HfgenError:
            raise
        except Exception as error:  # the calls of diffusers raise anything
            if NO_MEMORY.search(str(error)):
                raise
            raise HfgenError(
                f"{self.name} does not draw with {', '.join(sorted(arguments))} ({type(error).__name__}: {one_line(error, 200)}): "
                "choose other options, such as --batch_size 1, or load it with DiffusionPipeline.from_pretrained"
            ) from error
        if images.ndim != 4 or len(images) != count:
            raise HfgenError(
                f"{self.name} gave {images.shape} for {count} images: hfgen samples pipelines of images alone"
            )
        return torch.from_numpy(images).permute(0, 3, 1, 2).float()


def _global_state(cuda: list) -> list[torch.Tensor]:
    import torch

    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in cuda)]


def _components(index: Mapping[str, Any]) -> list[str]:
    return [k for k, v in index.items() if k != "_class_name" and isinstance(v, list) and v[1] is not None]


def _pipeline_class(name: Any) -> type | None:
    """The class of a pipeline that diffusers has by that name."""
    import diffusers

    kind = getattr(diffusers, name, None) if isinstance(name, str) else None
    return kind if isinstance(kind, type) and issubclass(kind, diffusers.DiffusionPipeline) else None
