"""A small classifier of a dataset's own classes, for `--features`: where no large network can be had, or knows such images."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from tqdm.auto import tqdm

from hfgen.configs.evaluation import FeatureTrainingConfig
from hfgen.configs.training import DataConfig
from hfgen.core.errors import HfgenError
from hfgen.core.files import make_folder, whole, write_json
from hfgen.core.processes import is_first
from hfgen.core.random import Stream, epoch_order, seeded
from hfgen.data.loading import Rows
from hfgen.data.training_set import load_training_set
from hfgen.evaluation.features import FeatureNetwork, NotFinite
from hfgen.evaluation.networks import PREPROCESSOR_FILE

SMALL, LARGEST = 32, 128
TURN, STRETCH, SHIFT = math.radians(12), 0.1, 0.09
FILES = ("config.json", "model.safetensors", PREPROCESSOR_FILE)


@dataclass(frozen=True, kw_only=True)
class TrainedFeatures:
    """A classifier on disk.

    Attributes:
        accuracy: on images that it was not trained on, None where they have no classes.
        most_frequent: the share of the class that most of these are of: what no classifier may fall short of.
    """

    folder: Path
    parameters: int
    num_features: int
    class_names: list[str]
    images: int
    held_out: int
    accuracy: float
    most_frequent: float


def train_features(config: FeatureTrainingConfig, data: DataConfig) -> TrainedFeatures:
    """Train on the classes of a dataset and write what `load_feature_network` takes; a part of the images is held out.

    A ResNet of 64 features on the images enlarged twice, or as they are from 33 pixels a side on, 128 at most. The pictures are
    turned, stretched and shifted a little, and mirrored where `data.random_flip` says so.

    Raises `HfgenError` for images without two classes, a folder that holds anything else, and as `load_training_set`.
    """
    if config.output_dir == "":
        raise HfgenError("output_dir='' is no name: name a folder")
    if data.streaming:
        raise HfgenError("--streaming: train-features looks at all images in each epoch: leave it out")
    folder = Path(config.output_dir)
    _check_folder(folder, config.overwrite)
    accelerator = Accelerator(cpu=torch.accelerator.current_accelerator() is None)
    images = load_training_set(
        data, channels=None, resolution=None, seed=config.seed, accelerator=accelerator, batch_size=config.batch_size
    )
    if images.train_labels is None or images.labels is None or len(images.class_names) < 2:
        raise HfgenError(
            "train-features needs images of two classes or more: name their column with --label_column, or put them into a folder "
            "for each class; without classes dinov2 and clip can be named as --features"
        )
    network = new_classifier(
        (images.channels, images.resolution),
        images.class_names,
        seed=config.seed,
        device=accelerator.device,
        name=folder.name,
    )
    fit(network, images.train, images.train_labels, config, flip=data.random_flip)
    preprocessor = preprocessing(images.channels, images.resolution)
    try:
        predicted = network(images.validation).probabilities.argmax(1)
    except NotFinite as error:
        raise HfgenError(
            f"learning_rate={config.learning_rate:g}: what the network makes of images is nan or inf in the end: lower it"
        ) from error
    _save(network, preprocessor, folder)
    counts = torch.bincount(images.labels, minlength=len(images.class_names))
    return TrainedFeatures(
        folder=folder,
        parameters=sum(p.numel() for p in network.model.parameters()),
        num_features=network.num_features,
        class_names=network.class_names,
        images=len(images.train),
        held_out=len(images.validation),
        accuracy=(predicted == images.labels).double().mean().item(),
        most_frequent=counts.max().item() / len(images.labels),
    )


def deformed(images: torch.Tensor, generator: torch.Generator, *, flip: bool) -> torch.Tensor:
    """Each image (B, C, H, W), as float, turned by up to 12 degrees, scaled and sheared by up to a tenth, shifted by up to 9 % of a
    side, and if `flip` half of them mirrored.
    """
    angle, scale_x, scale_y, shear, x, y, side = torch.empty(7, len(images)).uniform_(-1, 1, generator=generator)
    cos, sin = (angle * TURN).cos(), (angle * TURN).sin()
    mirror = torch.where(side < 0, -1.0, 1.0) if flip else torch.ones_like(side)
    rows = torch.stack(
        [
            mirror * cos * (1 + scale_x * STRETCH),
            -sin + shear * STRETCH,
            x * 2 * SHIFT,
            mirror * sin,
            cos * (1 + scale_y * STRETCH),
            y * 2 * SHIFT,
        ],
        dim=1,
    )
    grid = F.affine_grid(rows.view(-1, 2, 3), list(images.shape), align_corners=False).to(images.device)
    return F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)


def _check_folder(folder: Path, overwrite: bool) -> None:
    if not folder.exists():
        return make_folder("--output_dir", folder, folder.parent)
    if not folder.is_dir():
        raise HfgenError(f"--output_dir {folder} is a file: name a folder")
    there = {path.name for path in folder.iterdir()}
    if there - set(FILES):
        raise HfgenError(
            f"--output_dir {folder} holds {sorted(there - set(FILES))[0]}, no classifier of hfgen: name another"
        )
    if there and not overwrite:
        raise HfgenError(f"--output_dir {folder} holds a classifier: name another, or pass --overwrite to replace it")


def preprocessing(channels: int, resolution: int) -> dict[str, Any]:
    """As the networks of transformers have it; the whole image, in [-1, 1]."""
    side = 2 * resolution if resolution <= SMALL else min(resolution, LARGEST)
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": side, "width": side},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * channels,
        "image_std": [0.5] * channels,
    }


def new_classifier(
    shape: tuple[int, int], class_names: Sequence[str], *, seed: int, device: torch.device, name: str
) -> FeatureNetwork:
    """An untrained ResNet of 64 features for square images of `shape`, (C, side), on a device; the seed decides its weights."""
    torch.manual_seed(seed)
    return FeatureNetwork(_resnet(shape[0], class_names).to(device), preprocessing(*shape), name)


def _resnet(channels: int, class_names: Sequence[str]) -> torch.nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        num_channels=channels,
        embedding_size=16,
        hidden_sizes=[16, 32, 64],
        depths=[2, 2, 1],
        layer_type="basic",
        num_labels=len(class_names),
        id2label=dict(enumerate(class_names)),
        label2id={name: i for i, name in enumerate(class_names)},
    )
    return ResNetForImageClassification(config)


def fit(
    network: FeatureNetwork, images: Rows, labels: torch.Tensor, config: FeatureTrainingConfig, *, flip: bool
) -> None:
    """Train on images, uint8, and their classes, int64 (N,): AdamW, with a learning rate that rises and falls once."""
    model, labels = network.model.train(), labels.to(network.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, config.steps)
    generator = seeded("cpu", config.seed, Stream.TRAINING_NOISE)
    rows = list(_rows(config, len(images)))
    with tqdm(
        zip(rows, images.batches(rows), strict=True), total=len(rows), desc="classifier", disable=not is_first()
    ) as bar:
        for batch, pixels in bar:
            logits = model(network.prepare(deformed(pixels, generator, flip=flip))).logits
            loss = F.cross_entropy(logits, labels[batch.to(labels.device)], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if bar.n % 50 == 0:
                bar.set_postfix(loss=f"{loss.item():.3f}")
    model.eval()


def _rows(config: FeatureTrainingConfig, count: int) -> Iterator[torch.Tensor]:
    """The rows of each step: full batches of an order that is drawn anew for each pass."""
    size = min(config.batch_size, count)
    in_pass = count // size
    for step in range(config.steps):
        epoch, place = divmod(step, in_pass)
        if place == 0:
            order = epoch_order(config.seed, epoch, count)
        yield order[place * size : (place + 1) * size]


def _save(network: FeatureNetwork, preprocessor: dict[str, Any], folder: Path) -> None:
    """Each file appears whole."""
    make_folder("--output_dir", folder, folder)
    with TemporaryDirectory() as beside:
        network.model.save_pretrained(beside)
        for name in FILES[:2]:
            with whole(folder / name) as path:
                shutil.copyfile(Path(beside) / name, path)
    write_json(folder / PREPROCESSOR_FILE, preprocessor)
