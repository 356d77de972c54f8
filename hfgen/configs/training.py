"""The flags of the trainers, but those of the model; names are those of diffusers' unconditional trainer where it has them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hfgen.configs.flags import BELOW_ONE, NOT_NEGATIVE, POSITIVE, SEED, at_least, flag

ConditionName = Literal["canny", "skeleton", "low_resolution"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images to train on.

    Attributes:
        dataset: from Python alone, a Dataset or DatasetDict, with `streaming` also an iterable one, instead of those that the flags name.
    """

    _argument_group_name = "data"

    dataset_name: str = flag("ylecun/mnist", "repository on the Hub, local folder or file, or digits (embedded)")
    dataset_config_name: str | None = flag(None, "configuration of the dataset")
    train_data_dir: str | None = flag(
        None, "local folder of image files, or whatever datasets reads there, instead of dataset_name"
    )
    cache_dir: str | None = flag(None, "where datasets keeps what it downloads", identity=False, card="never")
    image_column: str | None = flag(None, "column of the images; none: the first image column")
    label_column: str | None = flag(
        None, "column of the classes, also of strings or integers; none: the first ClassLabel column, if any"
    )
    train_split: str = flag("train", "split to train on")
    validation_split: str | None = flag(
        None, "split for the held-out loss; none or not there: a tenth of the training images, 2,000 at most"
    )
    max_train_samples: int | None = flag(
        None, "images to train on at most, drawn with the classes in proportion; none: all", range=POSITIVE
    )
    resolution: int | None = flag(None, "pixels a side; none: the median of the shorter sides", range=POSITIVE)
    center_crop: bool = flag(False, "cut the square from the middle; else from a place drawn once per image")
    random_flip: bool = flag(False, "mirror half of the training images left to right, drawn anew at each use")
    background: str = flag("white", "colour behind what is transparent: a name, or #rrggbb", identity=False)
    streaming: bool = flag(
        False,
        "read shards (Parquet, WebDataset) as they are needed, from disk, the Hub or a URL that fsspec knows; needs max_train_steps",
        identity=False,
    )
    shuffle_buffer_size: int = flag(
        2048, "with streaming: images among which the next is drawn, over all processes", range=POSITIVE, identity=False
    )
    max_validation_samples: int | None = flag(
        None,
        "with streaming: images held out, the first of validation_split, or of train_split where there is none; none: 2,000",
        range=POSITIVE,
        identity=False,
    )
    epoch_steps: int = flag(
        1000,
        "with streaming: optimizer steps between held-out losses, which the flags that count epochs count as one",
        range=POSITIVE,
        identity=False,
    )
    dataset: Any = field(default=None, repr=False, metadata={"identity": False, "card": "never"})


@dataclass(frozen=True, kw_only=True)
class CaptionedData(DataConfig):
    """Which images to train on, and what they show in words."""

    caption_column: str | None = flag(None, "column of the captions; none: made of the classes by caption_template")
    caption_template: str | None = flag(
        None,
        "caption of a class, {} its name, of which digits are spelt (7 as seven) and underscores are blanks; none: a picture of {}",
    )


@dataclass(frozen=True, kw_only=True)
class ControlledData(CaptionedData):
    """Which images to train on, what they show in words, and the pictures that they are to follow."""

    conditioning_column: str | None = flag(
        None, "column of the pictures to follow; none: made of the images by condition"
    )
    condition: ConditionName | None = flag(
        None,
        "how a picture to follow is made of an image: its edges (Canny), its skeleton, or itself at a quarter of the resolution; "
        "with conditioning_column: how the column was made, by which it is measured",
    )


@dataclass(frozen=True, kw_only=True)
class ClipData(CaptionedData):
    """Which clips to train on, and what they show in words."""

    num_frames: int | None = flag(
        None,
        "frames of a clip, the first so many of a longer one; none: all, of pictures that are made to move 8",
        range=at_least(2),
        card="always",
    )


@dataclass(frozen=True, kw_only=True)
class OptimizationConfig:
    """How to train."""

    _argument_group_name = "optimization"

    train_batch_size: int = flag(16, "images per process and micro-batch", range=POSITIVE, identity=False)
    eval_batch_size: int = flag(
        16, "images per process for the held-out loss, and per batch of samples", range=POSITIVE, identity=False
    )
    num_epochs: int = flag(100, "passes over the training images", range=POSITIVE, identity=False)
    max_train_steps: int | None = flag(None, "optimizer steps, instead of num_epochs", range=POSITIVE, identity=False)
    gradient_accumulation_steps: int = flag(1, "micro-batches per optimizer step", range=POSITIVE, identity=False)
    optimizer: Literal["adamw", "muon"] = flag(
        "adamw", "muon steps along orthogonal matrices where weights are such, and as AdamW elsewhere"
    )
    learning_rate: float = flag(1e-4, "learning rate after warm-up", range=POSITIVE)
    lr_scheduler: Literal[
        "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"
    ] = flag("cosine", "shape of the learning rate over the optimizer steps")
    lr_warmup_steps: int = flag(500, "optimizer steps of linear warm-up", range=NOT_NEGATIVE)
    adam_beta1: float = flag(0.95, "AdamW's decay of the first moment", range=BELOW_ONE)
    adam_beta2: float = flag(0.999, "AdamW's decay of the second moment", range=BELOW_ONE)
    adam_weight_decay: float = flag(1e-6, "AdamW's decoupled weight decay", range=NOT_NEGATIVE)
    adam_epsilon: float = flag(1e-8, "AdamW's epsilon", range=POSITIVE)
    max_grad_norm: float = flag(1.0, "gradients are scaled down to this Euclidean norm; 0: never", range=NOT_NEGATIVE)
    use_ema: bool = flag(True, "keep a moving average of the weights; it is what is held out, sampled and saved")
    ema_max_decay: float = flag(0.9999, "largest decay per optimizer step of the moving average", range=BELOW_ONE)
    ema_inv_gamma: float = flag(
        1.0, "inverse gamma of the decay's warm-up 1 - (1 + step / inv_gamma)^-power", range=POSITIVE
    )
    ema_power: float = flag(0.75, "power of the decay's warm-up", range=NOT_NEGATIVE)
    mixed_precision: Literal["no", "fp16", "bf16"] | None = flag(None, "none: what accelerate is configured for")
    compile: bool = flag(
        False,
        "torch.compile the training step; benchmarks/compile_training.py says whether it pays",
        identity=False,
        card="never",
    )
    capture: bool = flag(
        False,
        "take each optimizer step as one CUDA graph, where that is possible; for networks whose step is many small kernels",
        identity=False,
        card="never",
    )
    seed: int = flag(0, "decides weights, order and noise; 0 or more", range=SEED)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where it goes, and what is told while it runs."""

    _argument_group_name = "run"

    config: str | None = flag(
        None, "YAML file of flags, such as those in training/; flags on the command line override it"
    )
    output_dir: str | None = flag(
        None, "folder of the pipeline, its checkpoints, pictures and logs; none: the kind's name and -model"
    )
    overwrite_output_dir: bool = flag(False, "replace what an earlier training left in output_dir")
    resume_from_checkpoint: str | None = flag(None, "a checkpoint's folder, or latest (a fresh start if there is none)")
    checkpointing_steps: int = flag(500, "optimizer steps between checkpoints", range=POSITIVE)
    checkpoints_total_limit: int | None = flag(None, "newest checkpoints to keep; none: all", range=POSITIVE)
    save_images_epochs: int = flag(10, "epochs between grids of samples; 0: never", range=NOT_NEGATIVE)
    eval_epochs: int = flag(
        0,
        "epochs between Frechet distances of 500 samples in 20 steps to held-out images; 0: never",
        range=NOT_NEGATIVE,
    )
    features: str | None = flag(
        None, "network for --eval_epochs: digits, inception, dinov2, clip, a folder or repository; none: digits"
    )
    save_model_epochs: int = flag(
        10, "epochs between saves of the pipeline; it is also saved at the end", range=POSITIVE
    )
    logging_steps: int = flag(
        20, "optimizer steps between readings of loss, learning rate and images/s", range=POSITIVE
    )
    logger: Literal["tensorboard", "wandb", "none"] = flag(
        "tensorboard", "tracker; tensorboard writes to output_dir/logs"
    )


@dataclass(frozen=True, kw_only=True)
class HubConfig:
    """Whether and how to push the result."""

    _argument_group_name = "Hub"

    push_to_hub: bool = flag(False, "push the pipeline and its card to the Hub when the training is done")
    hub_model_id: str | None = flag(
        None, "repository to push to, as name or user/name; none: the name of output_dir, in your namespace"
    )
    hub_token: str | None = flag(None, "token to push with; none: HF_TOKEN or that of hf auth login", secret=True)
    hub_private_repo: bool = flag(False, "make the repository a private one")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """All that decides a training.

    Attributes:
        family: name of the kind of model, as in `hfgen.families.registry`.
        model: an instance of the family's `model_flags`.
    """

    family: str
    model: Any
    data: DataConfig = field(default_factory=DataConfig)
    optimization: OptimizationConfig = field(default_factory=OptimizationConfig)
    run: RunConfig = field(default_factory=RunConfig)
    hub: HubConfig = field(default_factory=HubConfig)

    @property
    def output_dir(self) -> Path:
        """Where the training writes."""
        return Path(self.run.output_dir if self.run.output_dir is not None else f"{self.family}-model")

    @property
    def script(self) -> str:
        """The script that trains this family."""
        return f"training/train_{self.family}.py"

    @property
    def groups(self) -> tuple[Any, ...]:
        """The dataclasses of its flags."""
        return self.data, self.model, self.optimization, self.run, self.hub
