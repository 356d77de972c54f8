"""What a kind of model answers. A new kind is one file with a `Family`, and one line in `registry.py`."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from hfgen.configs.flags import check_ranges
from hfgen.configs.training import DataConfig
from hfgen.core.errors import HfgenError

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

    from hfgen.configs.training import TrainingConfig
    from hfgen.core.resume import Resumable
    from hfgen.data.batch import Batch, RandomSpec
    from hfgen.data.evaluation_images import EvaluationImages
    from hfgen.data.training_set import TrainingSet
    from hfgen.drawing.sampler import Sampler
    from hfgen.families.model import Model
    from hfgen.models.configs import MadeFor
    from hfgen.results import EvaluationResult, LikelihoodResult, Metric, TrainingRecord

PREVIEWS = 64
UNCONDITIONAL = "unconditional-image-generation"
Terms = dict[str, "torch.Tensor"]


class Task(Protocol):
    """Losses, previews and the pipeline of one training.

    Attributes:
        terms: names of what `loss` returns; "loss" is minimised, all are logged.
        ylabel: of the curves, with the unit, and what the card calls the loss.
        random: the numbers that `loss` finds in `batch.random`.
        states: what else belongs to a checkpoint, by name: objects with `state_dict` of tensors and `load_state_dict`.
        optimizers: names of optimizers; each has a turn in every step. Usually one.
        class_names: of the classes that the previews are of, in turn; a task without classes may lack it.
    """

    terms: tuple[str, ...]
    ylabel: str
    random: RandomSpec
    states: Mapping[str, Any]
    optimizers: tuple[str, ...]

    def to(self, device: torch.device) -> None:
        """Called once, before the first step: what the losses need lies on the device from then on."""

    def parameters(self, module: torch.nn.Module, optimizer: str) -> Sequence[torch.nn.Parameter]:
        """The parameters that an optimizer trains."""

    def loss(self, model: Callable, batch: Batch, optimizer: str) -> Terms:
        """The terms of each row, (B,), in the turn of an optimizer."""

    def end_step(self) -> None:
        """Called after each optimizer step, whose micro-batches `loss` has seen."""

    def held_out_loss(self, model: Callable, batch: Batch) -> Terms:
        """The terms of held-out rows, whose random numbers are those of every other evaluation."""

    def pipeline(self, module: torch.nn.Module) -> DiffusionPipeline:
        """The pipeline of the module as it is: what is saved."""

    def preview(self, module: torch.nn.Module) -> torch.Tensor:
        """The same 64 samples each time it is called, uint8 (64, C, H, W)."""


class OneOptimizer:
    """A mixin for tasks that train all parameters with one optimizer and keep nothing from step to step."""

    optimizers: tuple[str, ...] = ("model",)
    states: Mapping[str, Any] = {}

    def to(self, device) -> None:
        """Nothing to move."""

    def parameters(self, module, optimizer):
        """All that require a gradient."""
        return [p for p in module.parameters() if p.requires_grad]

    def end_step(self) -> None:
        """Nothing to do."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a model card tells of a kind of model, in Markdown; `hfgen.core.markdown` escapes what comes out of files.

    Attributes:
        summary: a sentence: what it is.
        usage: code with its explanation, and last the line that leads over to the command line, such as "With hfgen on the
            command line:". No blank line around it.
        samples: caption of samples.png, such as "Ancestral samples, not selected."
        results: a sentence under the measured results, if they need one.
        limits: sentences, beside those that are true of every model.
        tags: of the repository, beside "diffusers" and "hfgen".
        pictures: captions of its figures, by the file's name without .png, in the order of the card.
        task: what the Hub calls what it does.
        sample_flags: what `hfgen sample` needs to draw from it.
    """

    summary: str
    usage: str
    samples: str
    results: str = ""
    limits: Sequence[str] = ()
    tags: Sequence[str] = ()
    pictures: Mapping[str, str] = field(default_factory=dict)
    task: str = UNCONDITIONAL
    sample_flags: str = ""


@dataclass(frozen=True)
class NoOptions:
    """Of a family that has nothing to choose."""


@dataclass(frozen=True, kw_only=True)
class LikelihoodSettings:
    """How a likelihood is evaluated, whatever the family: `options` is an instance of `Family.likelihood_options`."""

    options: Any
    seed: int = 0
    batch_size: int | None = None
    resumable: Resumable | None = field(default=None, compare=False)


class Family(ABC):
    """A kind of model. Its methods get the pipeline or the configuration that they work on; a family keeps nothing.

    Attributes:
        name: in the registry, in results and on the command line.
        title: in tables, such as "VAE".
        network: the component whose parameters are trained and counted.
        own_code: classes of hfgen that its repositories bring the code of, and the module (the file's name) of each.
        data_flags: the dataclass of its trainer's flags of images, a `DataConfig`.
        model_flags, sampling_options, likelihood_options: dataclasses of its flags.
        no_likelihood: why there is no likelihood to measure; None where `likelihood` measures one.
        likelihood_kind: whether that is "exact" or a "bound", in a few words, for tables.
        can_compile: whether torch.compile makes its sampling faster.
        asks: what `hfgen sample` has to be told, such as "--prompt TEXT".
        draws: whether `hfgen sample` draws from it at all; what does not is looked at by `hfgen figures`.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    network: ClassVar[str]
    own_code: ClassVar[Mapping[str, str]] = MappingProxyType({})
    data_flags: ClassVar[type] = DataConfig
    model_flags: ClassVar[type] = NoOptions
    sampling_options: ClassVar[type] = NoOptions
    likelihood_options: ClassVar[type] = NoOptions
    no_likelihood: ClassVar[str | None] = None
    likelihood_kind: ClassVar[str] = "bound"
    can_compile: ClassVar[bool] = False
    asks: ClassVar[str] = ""
    draws: ClassVar[bool] = True

    # -- repositories

    @abstractmethod
    def claims(self, index: Mapping[str, Any]) -> bool:
        """Whether a `model_index.json` is of this kind."""

    @abstractmethod
    def files(self, index: Mapping[str, Any]) -> Sequence[str]:
        """Patterns of the files that such a repository cannot do without, below its folder."""

    def for_repository(self, folder: Path, index: Mapping[str, Any]) -> Family:
        """The family of a repository that it claims: itself, or one that a component's config makes it."""
        return self

    @abstractmethod
    def load(self, folder: Path, index: Mapping[str, Any], variant: str | None) -> DiffusionPipeline:
        """The pipeline of a folder, by hfgen's and diffusers' own classes: no code of the folder is run.

        `variant` is the middle of the weights' names where they have one, such as "fp16".

        Raises `HfgenError` for what this kind cannot do, and whatever the loader raises for damaged files.
        """

    def module(self, pipeline: DiffusionPipeline) -> torch.nn.Module:
        """The network."""
        return getattr(pipeline, self.network)

    def image_shape(self, pipeline: DiffusionPipeline) -> tuple[int, ...]:
        """(C, H, W) of its images, (F, C, H, W) of its clips."""
        config = self.module(pipeline).config
        size = config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return config.in_channels, height, width

    def configs(self, pipeline: DiffusionPipeline) -> dict[str, Mapping[str, Any]]:
        """The configs that results depend on, by component."""
        return {self.network: self.module(pipeline).config}

    # -- training

    def for_training(self, config: TrainingConfig) -> Family:
        """The family of what a configuration trains: itself, or one that a flag makes it."""
        return self

    def check_pretrained(self, model: Model, config: TrainingConfig) -> None:
        """Raise `HfgenError` for a model that a training of this family cannot start from."""
        if model.family.name != self.name:
            given = config.model.pretrained_model_name_or_path
            raise HfgenError(
                f"{given} is a {model.family.title} model: this needs a {self.title}, such as {config.script} leaves"
            )

    def resolved(self, config: TrainingConfig, pretrained: Model | None) -> TrainingConfig:
        """The configuration with what its flags leave to the family or to the model to start from."""
        return config

    def presets(self) -> Mapping[str, MadeFor]:
        """Which images each preset is for, by its name; none where there is no choice."""
        return {}

    def preset(self, shape: tuple[int, int, int]) -> str | None:
        """What model_config_name_or_path is for images of (C, H, W) where it is not given; None: there is no choice."""
        from hfgen.models.configs import choose_preset

        presets = self.presets()
        return choose_preset(presets, shape[0], shape[1]) if presets else None

    def better_preset(self, name: str, shape: tuple[int, int, int], on_gpu: bool) -> str | None:
        """A preset that suits images of (C, H, W) better than the one that is named; None: there is none."""
        from hfgen.models.configs import better_preset

        return better_preset(self.presets(), name, shape[0], shape[1], on_gpu)

    @abstractmethod
    def model_config(self, config: TrainingConfig, pretrained: Model | None) -> dict[str, Any]:
        """The network's config, in_channels and sample_size where it fixes them; before any data are read.

        `pretrained` is a model to start from, where the flag pretrained_model_name_or_path names one. Where neither that nor
        model_config_name_or_path is given the config is empty; after the data are read it is asked for again, with `preset`'s name.

        Raises `HfgenError` for flags that do not go together and for a config that cannot be found.
        """

    def image_config(self, config: TrainingConfig, model_config: Mapping[str, Any]) -> tuple[int | None, int | None]:
        """Channels and pixels a side of the training images, where the configuration fixes them: by default the network's."""
        return model_config.get("in_channels"), model_config.get("sample_size")

    def represented(
        self, config: TrainingConfig, images: TrainingSet, device: torch.device, show_progress: bool
    ) -> TrainingSet:
        """What the network is trained on, built for and measured by while it is trained: the images themselves, or their latents.

        `device` is that of the training. Raises `HfgenError` for images that cannot become it.
        """
        return images

    @abstractmethod
    def build(
        self, config: TrainingConfig, model_config: dict[str, Any], images: TrainingSet, pretrained: Model | None
    ) -> torch.nn.Module:
        """The network to train on these images; `HfgenError` when there can be none."""

    @abstractmethod
    def task(self, config: TrainingConfig, module: torch.nn.Module, images: TrainingSet) -> Task:
        """What trains it."""

    # -- sampling

    @abstractmethod
    def sampler(self, pipeline: DiffusionPipeline, options: Any, compile: bool = False) -> Sampler:
        """Draws by `options`, an instance of `sampling_options`; `HfgenError` for what this pipeline cannot do."""

    def sampling_on(self, options: Any, data: EvaluationImages) -> Any:
        """The options of samples that are held against these images: such as of their captions, where no words are asked for."""
        return options

    def plane(self, pipeline: DiffusionPipeline) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """What makes images, uint8 (N, C, H, W) on the CPU, of points (N, 2) of a plane on which the latents are N(0, I); None: there is none."""
        return None

    # -- measuring

    def sample_metrics(
        self,
        pipeline: DiffusionPipeline,
        sampler: Sampler,
        images: torch.Tensor,
        draw: Callable[[Sampler], torch.Tensor],
    ) -> dict[str, Metric]:
        """What there is to measure of samples beside their quality, by key: of the uint8 `images` that `sampler` has drawn.

        `draw` draws as many from the same seeds by another sampler.
        """
        return {}

    def likelihood(
        self, pipeline: DiffusionPipeline, data: EvaluationImages, settings: LikelihoodSettings
    ) -> LikelihoodResult:
        """The likelihood of the images or a bound on it; `HfgenError` for a family that has none."""
        raise HfgenError(f"{self.title}: {self.no_likelihood}; measure its samples instead, --samples N")

    def plot_likelihood(self, result: EvaluationResult, path: Path) -> bool:
        """Draw what there is to see of a likelihood; False if there is nothing."""
        return False

    # -- telling

    @abstractmethod
    def card(
        self,
        pipeline: DiffusionPipeline,
        name: str,
        training: TrainingRecord | None,
        results: EvaluationResult | None,
    ) -> Card:
        """What a card tells of the model; `name` is what code on it loads."""

    def figures(
        self, pipeline: DiffusionPipeline, data: EvaluationImages, out: Path, seed: int, training: Path | None
    ) -> list[Path]:
        """Draw the pictures that there are of such a model into the folder `out`; returns their paths.

        `training` is the folder of its training, None for a model that was not trained here. The curves are the trainer's.
        """
        return []


def make_options(kind: type, values: Mapping[str, Any], whose: str):
    """An instance of a family's options; `HfgenError` for one that it has not and for numbers out of range.

    Of what may be several, such as prompts, one alone need not be in a list.
    """
    known = {item.name: str(item.type) for item in fields(kind)}
    unknown = [f"--{name}" for name in values if name not in known]
    if unknown:
        raise HfgenError(f"{', '.join(unknown)}: {whose} has no such choice: leave it out")
    given = {
        name: value if value is None or not known[name].startswith("tuple") else _several(name, value)
        for name, value in values.items()
    }
    options = kind(**given)
    check_ranges(options)
    return options


def _several(name: str, value: Any) -> tuple[Any, ...]:
    """As a tuple, paths as text; `HfgenError` for an empty one."""
    value = value.tolist() if hasattr(value, "tolist") else value  # of tensors and arrays
    alone = isinstance(value, (str, os.PathLike)) or not isinstance(value, Iterable)
    values = (value,) if alone else tuple(value)
    if not values:
        raise HfgenError(f"{name}: there is none in it: name one or more, or leave it out")
    return tuple(os.fspath(each) if isinstance(each, os.PathLike) else each for each in values)
