"""Bad input of every kind to every command: one line that says what and the way out, status 1 or 2, and nothing on disk has changed."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import psutil
import pyarrow.parquet
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from diffusers import DDPMScheduler
from latent_repositories import save_autoencoder
from PIL import Image
from safetensors.torch import load_file, save_file
from text_repositories import save_unet, save_untrained
from video_repositories import save_video

from hfgen.cli.main import main
from hfgen.cli.training_script import run_script
from hfgen.data.digits import embedded_digits
from hfgen.models import build_unet, build_vae
from hfgen.models.flow_presets import build_flow
from hfgen.models.gan_presets import build_gan
from hfgen.pipelines import FlowPipeline, GANPipeline, UnconditionalDiffusionPipeline, VAEPipeline
from hfgen.trainer.checkpoints import checkpoints

UNET = {
    "block_out_channels": [4, 8],
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "add_attention": False,
}
MHVAE = {"_class_name": "MLPMHVAE", "latent_sizes": [3, 2], "hidden_sizes": [[8], []], "likelihood": "bernoulli"}
FLOW = {"scales": 1, "channels": 4, "layers": 0, "top_features": 4, "top_groups": 2}
GAN = {"latent_size": 4, "block_out_channels": [4, 4], "discriminator": {"block_out_channels": [4, 4], "features": 4}}
VAE = {"_class_name": "MLPVAE", "hidden_sizes": [8], "latent_size": 2, "likelihood": "bernoulli"}
BAR = re.compile(r"it/s|s/it|step/s|s/step|img/s|image/s|s/image|\d%\||examples/s|\?it|^\s*$")
TRAINERS = {"train_ddpm": "ddpm", "train_vae": "vae"}
# those that have the rows of their own alone
OTHER_TRAINERS = {
    "train_video": "video",
    "train_controlnet": "controlnet",
    "train_text_to_image": "text_to_image",
    "train_autoencoder": "autoencoder",
    "train_flow": "flow",
    "train_gan": "gan",
    "train_mhvae": "mhvae",
}
SMALL = (
    "--validation_split test --max_train_samples 64 --train_batch_size 16 --eval_batch_size 64 --num_epochs 1 "
    "--save_images_epochs 0 --logger none --lr_warmup_steps 0"
).split()
LONG = "x" * 300
IMAGE = datasets.Image()
SECONDS = 60
TRILLION = 10**12


class Bad(NamedTuple):
    """A command line, in which {here} is a new folder and {ddpm}, {vae} and {broken} are models; what its line says; what is
    made or damaged before; the status."""

    words: str
    says: str
    make: Callable[[Path], object] | None = None
    status: int = 1


def put(name: str, content: object = b"") -> Callable[[Path], object]:
    """A file in the folder; what is neither text nor bytes as JSON."""

    def make(here: Path) -> None:
        path = here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = content if isinstance(content, (str, bytes)) else json.dumps(content)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())

    return make


def changed(name: str, **values: object) -> Callable[[Path], object]:
    """Keys of a JSON file in the copy of a model."""

    def make(here: Path) -> None:
        path = here / "broken" / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return make


def weights(change: Callable[[Path], object], part: str = "unet") -> Callable[[Path], object]:
    return lambda here: change(here / "broken" / part / "diffusion_pytorch_model.safetensors")


def tensors(change: Callable[[dict], object]) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        values = load_file(path)
        change(values)
        save_file(values, path, metadata={"format": "pt"})

    return make


def pictures(last: bytes | Callable[[Path], object], name: str = "last.png") -> Callable[[Path], object]:
    """A folder of twelve grey images of 8x8 pixels, and one more file."""

    def make(here: Path) -> None:
        folder = here / "images"
        folder.mkdir()
        for i in range(12):
            Image.fromarray(np.full((8, 8), i * 20, np.uint8)).save(folder / f"{i:02}.png")
        if callable(last):
            last(folder / name)
        else:
            (folder / name).write_bytes(last)

    return make


def rows(**last: object) -> Callable[[Path], object]:
    """A Parquet file, the last of whose thirteen rows holds this."""

    def make(here: Path) -> None:
        picture = io.BytesIO()
        Image.new("L", (8, 8)).save(picture, format="PNG")
        value = {key: part.format(here=here) if isinstance(part, str) else part for key, part in last.items()}
        shown = [{"bytes": picture.getvalue(), "path": None}] * 12
        # by Arrow itself, as `datasets` would read what a path leads to
        made = datasets.Dataset.from_dict({"image": [*shown, value or None]}, features=datasets.Features(image=IMAGE))
        (here / "rows").mkdir()
        pyarrow.parquet.write_table(made.data.table, here / "rows" / "train.parquet")

    return make


def saved(name: str, content: bytes) -> Callable[[Path], object]:
    """A folder of `save_to_disk` with a damaged file."""

    def make(here: Path) -> None:
        source = embedded_digits()
        parts = {split: source[split].select(range(20)) for split in source}
        with_dict = datasets.DatasetDict(parts)
        with_dict.save_to_disk(here / "disk")
        (here / "disk" / name).write_bytes(content)

    return make


def both(*makers: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda here: [make(here) for make in makers]


def bomb(path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(path)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n"
PNG = Image.new("L", (64, 64))._repr_png_()
NOISE = bytes(range(256)) * 4

# -- flags that no command takes: status 2
FLAGS = [
    *(
        Bad(f"sample {{ddpm}} {words}", says, status=2)
        for words, says in (
            ("--num_images 0", "num_images.*greater than 0"),
            ("--num_images -1", "num_images.*greater than 0"),
            ("--num_images x", "invalid int value: 'x'"),
            ("--num_images 1.5", "invalid int value: '1.5'"),
            (f"--num_images 1{'0' * 30}", "more than any number"),
            (f"--seed {'9' * 5000}", "invalid int value"),
            ("--seed -1", "seed.*0 or greater"),
            ("--seed nan", "invalid int value"),
            ("--batch_size 0", "batch_size.*greater than 0"),
            ("--steps 0", "steps.*greater than 0"),
            ("--steps ''", "steps.*invalid int value"),
            ("--eta 2", "eta.*from 0 to 1"),
            ("--eta nan", "eta.*from 0 to 1"),
            ("--guidance_scale -1", "guidance_scale.*from 0 to"),
            ("--guidance_scale inf", "guidance_scale.*from 0 to"),
            ("--scheduler plms", "invalid choice: 'plms'"),
            ("--num_image 3", "unrecognized arguments"),
            ("--out", "expected one argument"),
            ("--compile maybe", "neither true nor false"),
            ("another", "unrecognized arguments: another"),
        )
    ),
    Bad("sample", "required: PATH_OR_REPO", status=2),
    Bad("", "required: COMMAND", status=2),
    Bad("paint x", "invalid choice: 'paint'", status=2),
    *(
        Bad(f"evaluate {{ddpm}} --dataset_name digits {words}", says, status=2)
        for words, says in (
            ("--max_images 0", "max_images.*greater than 0"),
            ("--samples 1", "samples.*2 or greater"),
            ("--evaluations 10", "evaluations.*100 or greater"),
            ("--iw_samples 0", "iw_samples.*greater than 0"),
            ("--batch_size 0", "batch_size.*greater than 0"),
            ("--seed -1", "seed.*0 or greater"),
            ("--split", "expected one argument"),
        )
    ),
    Bad("compare", "required: PATH_OR_REPO", status=2),
    Bad("compare {ddpm} {vae} --dataset_name digits --repeat 0", "repeat.*greater than 0", status=2),
    Bad("figures {vae} --max_images 0", "max_images.*greater than 0", status=2),
    Bad("card", "required: DIR", status=2),
    Bad("publish {ddpm}", "required: REPO", status=2),
    *(
        Bad(f"{script} {words}", says, status=2)
        for script in TRAINERS
        for words, says in (
            ("--learning 4", "unrecognized arguments"),
            ("--train_batch_size four", "invalid int value: 'four'"),
            ("--lr_scheduler square", "invalid choice: 'square'"),
            ("--num_epochs", "expected one argument"),
            ("--use_ema maybe", "neither true nor false"),
            ("digits", "unrecognized arguments: digits"),
            (f"--seed 1{'0' * 40}", "more than any number"),
        )
    ),
    Bad("train_ddpm --prediction_type noise", "invalid choice: 'noise'", status=2),
    Bad("train_vae --likelihood poisson", "invalid choice: 'poisson'", status=2),
    Bad("train_ddpm --config {here}/c.yaml", "invalid int value: 'four'", put("c.yaml", "train_batch_size: four"), 2),
]

# -- what is to be loaded
DAMAGED_INDEX = [
    Bad("sample {broken}", says, put("broken/model_index.json", content))
    for content, says in (
        ([], "model_index.json"),
        (None, "model_index.json"),
        ("3", "model_index.json"),
        ('"x"', "model_index.json"),
        ("", "model_index.json"),
        ({}, "broken"),
        (NOISE, "model_index.json"),
        ("[" * 100_000, "model_index.json"),
    )
] + [
    Bad("sample {broken}", says, changed("model_index.json", **values))
    for values, says in (
        ({"unet": []}, "unet"),
        ({"unet": [1]}, "unet"),
        ({"unet": 3}, "unet"),
        ({"unet": None}, "unet|kind"),
        ({"scheduler": 3}, "scheduler"),
        ({"scheduler": ["evil", "Evil"]}, "evil|Evil|scheduler"),
        ({"scheduler": ["diffusers", "NoSuchScheduler"]}, "NoSuchScheduler"),
        ({"_class_name": ["a", "b", "c"]}, "broken|_class_name"),
        ({"_class_name": 3}, "broken|_class_name"),
    )
]
DAMAGED_CONFIGS = [
    Bad("sample {broken} --num_images 1 --steps 2", says, changed(f"{part}", **values))
    for part, values, says in (
        *(
            ("unet/config.json", values, says)
            for values, says in (
                ({"sample_size": "8"}, "sample_size"),
                ({"sample_size": 0}, "sample_size"),
                ({"sample_size": -8}, "sample_size"),
                ({"sample_size": [1, 2, 3]}, "sample_size"),
                ({"sample_size": 100_000}, "sample_size|memory"),
                ({"sample_size": True}, "sample_size"),
                ({"norm_num_groups": 0}, "norm_num_groups|unet"),
                ({"norm_num_groups": 3}, "norm_num_groups|num_channels|unet"),
                ({"layers_per_block": 10**6}, "layers_per_block"),
                ({"layers_per_block": "x"}, "layers_per_block|unet"),
                ({"block_out_channels": []}, "block_out_channels|unet"),
                ({"block_out_channels": [10**9, 8]}, "GiB of memory"),
                ({"in_channels": 7}, "conv_in"),
                ({"out_channels": 5}, "conv_out"),
                ({"_class_name": ["UNet2DModel"]}, "_class_name|unet"),
                ({"down_block_types": ["NoSuch", "DownBlock2D"]}, "NoSuch|unet"),
            )
        ),
        *(
            ("scheduler/scheduler_config.json", values, says)
            for values, says in (
                ({"num_train_timesteps": "1000"}, "num_train_timesteps|scheduler"),
                ({"num_train_timesteps": 1.5}, "num_train_timesteps|scheduler"),
                ({"num_train_timesteps": None}, "num_train_timesteps|scheduler"),
                ({"num_train_timesteps": 0}, "num_train_timesteps|scheduler"),
                ({"num_train_timesteps": 10**9}, "num_train_timesteps|GiB"),
                ({"beta_schedule": "cubic"}, "beta_schedule|cubic"),
                ({"prediction_type": "noise"}, "prediction_type|noise"),
                ({"beta_end": "x"}, "beta_end|scheduler"),
                ({"beta_start": -1.0}, "beta|nan"),
                ({"trained_betas": []}, "trained_betas|betas|scheduler"),
            )
        ),
    )
] + [
    Bad("sample {broken_vae}", says, lambda here, values=values: changed_vae(here, values))
    for values, says in (
        ({"sample_size": "8"}, "sample_size"),
        ({"sample_size": 0}, "sample_size"),
        ({"latent_size": "x"}, "latent_size|vae"),
        ({"latent_size": 10**9}, "latent_size=1000000000|GiB"),
        ({"likelihood": "poisson"}, "poisson"),
        ({"hidden_sizes": "x"}, "hidden_sizes|vae"),
        ({"hidden_sizes": [10**12]}, "hidden_sizes|vae"),
        ({"latent_bound": -1}, "latent_bound"),
    )
]
DAMAGED_WEIGHTS = [
    Bad("sample {broken} --num_images 1 --steps 2", says, weights(change))
    for change, says in (
        (lambda path: path.unlink(), "unet"),
        (lambda path: path.write_bytes(path.read_bytes()[:500]), "unet|safetensors"),
        (lambda path: path.write_bytes(b""), "unet|safetensors"),
        (lambda path: path.write_bytes(NOISE), "unet|safetensors"),
        (tensors(lambda values: values.pop("conv_in.weight")), "conv_in.weight|unet"),
        (tensors(lambda values: values["conv_in.bias"].fill_(torch.nan)), "finite"),
        (tensors(lambda values: values.update({"conv_in.bias": torch.zeros(99)})), "conv_in.bias|unet|shape"),
    )
]
PLACES = [
    Bad(f"sample {name}", says)
    for name, says in (
        ("{here}/none", "none"),
        ("{here}", "here|model_index.json|folder"),
        ("nobody/nothing", "nobody/nothing"),
        ("'a b'", "a b"),
        ("''", "."),
        (LONG, "xxx"),
        (f"{LONG}/{LONG}", "xxx"),
        ("{ddpm}/model_index.json", "model_index.json"),
    )
]

# -- what cannot be done, and where nothing can be written
SAMPLES = [
    Bad(f"sample {words}", says, make)
    for words, says, make in (
        (f"{{ddpm}} --num_images {TRILLION}", "GiB of memory", None),
        (f"{{vae}} --num_images {TRILLION} --batch_size {TRILLION}", "GiB of memory", None),
        ("{ddpm} --device meta", "device 'meta' is not available", None),
        ("{ddpm} --device cuda:99", "device 'cuda:99' is not available", None),
        ("{ddpm} --device abacus", "device 'abacus' is not available", None),
        ("{ddpm} --device ''", "device '' is not available", None),
        ("{ddpm} --out {here}/a.jpg", "grids are PNG files", None),
        ("{ddpm} --out {here}/a.png", "is a folder", lambda here: (here / "a.png").mkdir()),
        ("{ddpm} --out {here}/full", "files in it|not empty", put("full/thesis.tex", "years of work")),
        (f"{{ddpm}} --out {{here}}/{LONG}.png", "File name too long", None),
        (f"{{ddpm}} --out {{here}}/{LONG}", "File name too long", None),
        (f"{{ddpm}} --out {{here}}/{LONG}/a.png", "File name too long", None),
        ("{ddpm} --out {here}/file/a.png", "file", put("file")),
        ("{ddpm} --out {here}/file", "file", put("file")),
        ("{ddpm} --out /proc/hfgen/a.png", "/proc/hfgen", None),
        ("{ddpm} --out /proc/hfgen", "/proc/hfgen", None),
        ("{ddpm} --trajectory {here}/a.png", "animations are GIF files", None),
        (f"{{ddpm}} --trajectory {{here}}/{LONG}.gif", "File name too long", None),
        ("{ddpm} --trajectory /proc/hfgen/a.gif", "/proc/hfgen", None),
        ("{vae} --trajectory {here}/a.gif", "one step", None),
        ("{vae} --steps 3", "--steps", None),
        ("{vae} --scheduler ddim", "--scheduler", None),
        ("{vae} --compile", "compile", None),
        ("{ddpm} --sample_pixels", "--sample_pixels", None),
        ("{ddpm} --class_labels 3", "class_labels", None),
        ("{ddpm} --guidance_scale 3", "guidance_scale", None),
        ("{ddpm} --steps 21", "steps", None),
    )
]
EVALUATIONS = [
    Bad(f"evaluate {words}", says, make)
    for words, says, make in (
        ("{ddpm} --dataset_name digits --split dev", "'dev' is not in 'digits': it has train, test", None),
        ("{ddpm} --dataset_name {here}/none", "none", None),
        ("{ddpm} --dataset_name {here}/empty --split train", "empty", lambda here: (here / "empty").mkdir()),
        ("{ddpm} --dataset_name nobody/nothing", "nobody/nothing", None),
        (f"{{ddpm}} --dataset_name {LONG}", "xxx", None),
        ("{ddpm} --dataset_name digits --device meta", "meta", None),
        ("{ddpm} --dataset_name digits --iw_samples 3", "--iw_samples", None),
        ("{vae} --dataset_name digits --exact", "--exact", None),
        ("{vae} --dataset_name digits --evaluations 1000", "--evaluations", None),
        (f"{{ddpm}} --dataset_name digits --samples {TRILLION}", "GiB of memory", None),
        ("{ddpm} --dataset_name digits --samples 20 --features {here}/none", "none", None),
        ("{ddpm} --dataset_name digits --out {here}", "is a folder", None),
        ("{ddpm} --dataset_name digits --out {here}/file/r.json", "file", put("file")),
        ("{ddpm} --dataset_name digits --out /proc/hfgen/r.json", "/proc/hfgen", None),
        (f"{{ddpm}} --dataset_name digits --out {{here}}/{LONG}.json", "File name too long", None),
        ("{broken} --dataset_name digits --out {broken}/model_index.json", "model_index.json", lambda here: None),
        ("{broken} --dataset_name digits --out {broken}/unet/config.json", "config.json", lambda here: None),
    )
]
COMPARISONS = [
    Bad(f"compare {words} --dataset_name digits", says, make)
    for words, says, make in (
        ("{ddpm}", "two or more", None),
        ("{ddpm} {ddpm}", "ddpm", None),
        ("{ddpm} {here}/none", "none", None),
        ("{ddpm} {vae} --out {here}/c.md", "HTML", None),
        ("{ddpm} {vae} --out {here}/c.html", "is a folder", lambda here: (here / "c.html").mkdir()),
        ("{ddpm} {vae} --out /proc/hfgen/c.html", "/proc/hfgen", None),
        (f"{{ddpm}} {{vae}} --out {{here}}/{LONG}.html", "File name too long", None),
        ("{ddpm} {vae} --device meta", "meta", None),
        ("{ddpm} {vae} --split dev", "dev", None),
    )
]

# -- images
IMAGES = [
    Bad(words.replace("DATA", "--train_data_dir {here}/images"), rf"row 12 of .*{says}", pictures(last, name))
    for words in ("train_ddpm DATA",)
    for name, last, says in (
        ("last.png", b"", "unreadable"),
        ("last.png", NOISE, "unreadable .*none of the formats"),
        ("last.png", PNG[:60], "unreadable"),
        ("last.png", EPS, "none of the formats"),
        ("last.png", bomb, "pixels"),
        ("last.jpg", b"\xff\xd8\xff\xe0" + NOISE, "unreadable"),
        ("last.tif", lambda path: Image.fromarray(np.zeros((8, 8), np.float32)).save(path), "32-bit pixels"),
    )
] + [
    Bad(words, rf"row 12 .*{says}", both(rows(**last), *more))
    for words in (
        "train_ddpm --dataset_name {here}/rows --cache_dir {here}/../cache",
        "evaluate {ddpm} --dataset_name {here}/rows --split train",
    )
    for last, more, says in (
        ({}, (), "there is no image"),
        ({"bytes": b"", "path": None}, (), "unreadable"),
        ({"bytes": EPS, "path": "a.eps"}, (), "none of the formats"),
        ({"bytes": None, "path": "{here}/pipe"}, (lambda here: os.mkfifo(here / "pipe"),), "no regular file"),
        ({"bytes": None, "path": "/dev/zero"}, (), "no regular file"),
        ({"bytes": None, "path": "{here}"}, (), "no regular file"),
        ({"bytes": None, "path": "{here}/none.png"}, (), "No such file"),
    )
]
SOURCES = [
    Bad(words, "disk.* is damaged", saved(name, content))
    for words in ("train_ddpm --dataset_name {here}/disk", "evaluate {vae} --dataset_name {here}/disk")
    for name, content in (
        ("dataset_dict.json", b"{"),
        ("dataset_dict.json", b"[]"),
        ("train/state.json", b"[]"),
        ("train/state.json", b""),
        ("train/dataset_info.json", b"null"),
        ("train/dataset_info.json", NOISE),
        ("train/data-00000-of-00001.arrow", b""),
        ("train/data-00000-of-00001.arrow", NOISE),
    )
]

# -- trainings
CONFIG_FILES = (
    [
        Bad(f"{script} --model_config_name_or_path {{here}}/m.json", says, put("m.json", content))
        for script, own in (("train_ddpm", UNET), ("train_vae", VAE))
        for content, says in (
            ([], "holds a list"),
            (None, "holds a NoneType"),
            ('"x"', "holds a str"),
            ("", "m.json"),
            ("{", "m.json"),
            (NOISE, "m.json"),
            ("[" * 100_000, "m.json"),
            ({**own, "in_channels": 5}, "in_channels=5"),
            ({**own, "in_channels": "1"}, "in_channels='1'"),
            ({**own, "in_channels": True}, "in_channels=True"),
            ({**own, "sample_size": "8"}, "sample_size='8'"),
            ({**own, "sample_size": [8, 16]}, r"sample_size=\[8, 16\]"),
            ({**own, "sample_size": 0}, "sample_size=0"),
            ({**own, "sample_size": 100_000}, "sample_size=100000"),
            ({**own, "sample_size": 8.5}, "sample_size=8.5"),
            ({**own, "widths": 3}, "no such argument"),
        )
    ]
    + [
        Bad("train_ddpm --model_config_name_or_path {here}/m.json", says, put("m.json", {**UNET, **change}))
        for change, says in (
            ({"layers_per_block": 10**6}, "layers_per_block=1000000.* GiB of memory"),
            ({"layers_per_block": -1}, "cannot be built|layers_per_block"),
            ({"layers_per_block": "two"}, "cannot be built"),
            ({"block_out_channels": [10**9, 8]}, "GiB of memory"),
            ({"block_out_channels": None}, "cannot be built"),
            ({"norm_num_groups": 0}, "cannot be built"),
            ({"norm_eps": "x"}, "cannot be built"),
            ({"act_fn": "sine"}, "cannot be built"),
            ({"time_embedding_type": 3}, "cannot be built"),
            ({"dropout": 7}, "cannot be built"),
            ({"num_class_embeds": 10}, "class"),
        )
    ]
    + [
        Bad("train_vae --model_config_name_or_path {here}/m.json", says, put("m.json", {**VAE, **change}))
        for change, says in (
            ({"_class_name": "UNet2DModel"}, "_class_name"),
            ({"_class_name": ["MLPVAE"]}, "_class_name"),
            ({"latent_size": 10**9}, "latent_size=1000000000.* GiB of memory"),
            ({"latent_size": "x"}, "cannot be built"),
            ({"latent_size": True, "hidden_sizes": None}, "cannot be built"),
            ({"hidden_sizes": [10**12]}, "cannot be built|GiB of memory"),
            ({"likelihood": "poisson"}, "poisson"),
            ({"activation": []}, "cannot be built"),
            ({"latent_bound": "x"}, "cannot be built"),
        )
    ]
)
TRAININGS = [
    Bad(f"{script} {words}", says, make)
    for script in TRAINERS
    for words, says, make in (
        ("--config {here}/none.yaml", "none.yaml", None),
        ("--config {here}", "cannot be read", None),
        ("--config {here}/c.yaml", "unknown keys: learning_rat", put("c.yaml", "learning_rat: 1")),
        ("--config {here}/c.yaml", "holds no flags", put("c.yaml", "- 1")),
        ("--config {here}/c.yaml", "cannot be read", put("c.yaml", NOISE)),
        ("--config {here}/c.yaml", "no single value", put("c.yaml", "dataset_name: [a, b]")),
        ("--config {here}/c.yaml", "cannot be read", put("c.yaml", "&a [*a, 1]: 1")),
        ("--config {here}/c.yaml", "cannot be read|no flags", put("c.yaml", "[" * 5000)),
        ("--config {here}/c.yaml", "unknown keys: debug", put("c.yaml", "debug: true")),
        ("--learning_rate nan", "learning_rate=nan", None),
        ("--seed -1", "seed=-1", None),
        ("--dataset_name {here}/none", "none", None),
        ("--train_data_dir {here}/none", "none", None),
        ("--train_data_dir {here}/empty", "empty", lambda here: (here / "empty").mkdir()),
        ("--train_split dev", "train_split='dev'", None),
        ("--image_column label", "holds no images", None),
        ("--label_column none", "label_column='none'", None),
        ("--resolution 20000", "GiB of memory", None),
        ("--train_batch_size 1000000000", "1000000000", None),
        ("--gradient_accumulation_steps 1000000000", "more than the 64 training images", None),
        ("--model_config_name_or_path nonsense", "'nonsense' is no preset", None),
        ("--model_config_name_or_path {here}/none.json", "none.json", None),
        ("--output_dir ''", "output_dir=''", None),
        ("--output_dir {here}/file", "is a file", put("file")),
        ("--output_dir {here}/file/out", "file", put("file")),
        ("--output_dir /proc/hfgen", "/proc/hfgen", None),
        (f"--output_dir {{here}}/{LONG}", "File name too long", None),
        ("--output_dir {here}/mine", "is not empty", put("mine/thesis.tex", "years of work")),
        ("--output_dir {here}/mine --overwrite_output_dir", "mine", put("mine/logs/thesis.tex", "years of work")),
        ("--resume_from_checkpoint {here}/none", "no complete checkpoint", None),
        ("--mixed_precision fp16", "needs a GPU", None),
        ("--hub_model_id a/b/c --push_to_hub", "a/b/c|token", None),
    )
] + [
    Bad("train_ddpm --ddpm_num_steps 1000000000 --ddpm_num_inference_steps 10", "GiB of memory"),
    Bad("train_ddpm --ddpm_num_steps 100 --ddpm_num_inference_steps 200", "more than ddpm_num_steps=100"),
    Bad("train_ddpm --resolution 7", "resolution=7 cannot be halved"),
    Bad("train_ddpm --rescale_betas_zero_snr --prediction_type epsilon", "epsilon|zero"),
    Bad("train_ddpm --model_config_name_or_path {here}", "no preset"),
    Bad("train_vae --latent_size 1000000000", "GiB of memory"),
    Bad("train_vae --num_latent_samples 1000000000", "GiB of memory"),
    Bad("train_vae --objective iw --kl_warmup_steps 3", "kl_warmup_steps"),
    Bad("train_vae --gaussian_variance 1", "gaussian_variance"),
    Bad("train_vae --pretrained_model_name_or_path {here}/none", "none"),
    Bad("train_vae --pretrained_model_name_or_path {ddpm}", "diffusion model"),
    Bad("train_vae --pretrained_model_name_or_path {vae} --latent_size 5", "weights of other shapes"),
]

# -- what a training or an evaluation has left, and a card tells
RECORDS = (
    [
        Bad("card {broken}", file, put(f"broken/{file}", content))
        for file in ("results.json", "training.json")
        for content in (
            [],
            {},
            "",
            "{",
            NOISE,
            '"x"',
            {"schema_version": 99},
            {"schema_version": 2, "dataset": 3},
            "[" * 100_000,
        )
    ]
    + [
        Bad("figures {broken} --dataset_name digits", rf"history.jsonl.*{says}", put("broken/history.jsonl", content))
        for content, says in (
            ('{"step": 1, "train_loss": 1.0}\ngarbage\n', "line 2"),
            ('{"step": 1, "train_loss": NaN}\n', "line 1.*NaN"),
            ('{"step": 1, "train_loss": "x"}\n', "line 1.*train_loss"),
            ('{"train_loss": 1.0}\n', "line 1"),
            ('{"step": "x", "train_loss": 1.0}\n', "line 1"),
            ("[]\n", "line 1"),
            ("null\n", "line 1"),
            (NOISE, "cannot be read"),
        )
    ]
    + [
        Bad("card {here}/none", "none"),
        Bad("card {here}", "no pipeline|model_index.json|folder"),
        Bad("card nobody/nothing", "nobody/nothing"),
        Bad("card {broken}", "README.md", lambda here: (here / "broken" / "README.md").mkdir()),
        Bad("card {broken}", "README.md", put("broken/README.md", NOISE)),
        Bad("figures {here}/none --dataset_name digits", "none"),
        Bad("figures {vae} --dataset_name digits --out {here}/file", "file", put("file")),
        Bad("figures {vae} --dataset_name digits --out /proc/hfgen", "/proc/hfgen"),
        Bad(f"figures {{vae}} --dataset_name digits --out {{here}}/{LONG}", "File name too long"),
        Bad("figures {vae} --dataset_name digits --split dev", "dev"),
        Bad("figures {vae} --dataset_name digits --device meta", "meta"),
        Bad("publish {here}/none alice/x", "none"),
        Bad("publish {here} alice/x", "no pipeline|model_index.json|folder"),
        Bad("publish {ddpm} a/b/c", "a/b/c"),
        Bad("publish {ddpm} 'a b'", "a b"),
        Bad("publish {ddpm} alice/x --include none*", r"none\*"),
        Bad("publish {broken} alice/x", "link", lambda here: link_out(here)),
    ]
)

# -- which images
METADATA = "file_name,score\n" + "".join(f"{i:02}.png,{i / 2}\n" for i in range(12))
RECORD = {
    **{"command": "", "dataset": None, "train_split": "train", "images": 1, "image_shape": [1, 8, 8], "held_out": ""},
    **{
        "steps": 1,
        "epochs": 1,
        "batch_size": 1,
        "learning_rate": 1,
        "averaged_weights": True,
        "loss": "",
        "seconds": 1,
    },
    **{"held_out_loss": None, "processes": 1, "mixed_precision": "no", "run_metadata": {}},
}
OWN_IMAGES = (
    [
        Bad("train_ddpm --train_data_dir {here}/none", "none.* is no folder or file"),
        Bad("train_ddpm --train_data_dir {here}/a.txt", "no image column", put("a.txt", "nothing\n" * 12)),
        Bad("train_ddpm --train_data_dir {here}/a.parquet", "a.parquet", put("a.parquet", NOISE)),
        Bad("train_ddpm --train_data_dir {here}/a.tar", "a.tar", put("a.tar", NOISE)),
        Bad("train_ddpm --background nocolour", "background='nocolour' is no colour"),
        Bad("evaluate {ddpm} --dataset_name digits --background nocolour", "background='nocolour' is no colour"),
        Bad("evaluate {ddpm} --dataset_name digits --resolution 9", "resolution=9: the model's images are 1x8x8"),
        Bad("evaluate {ddpm} --dataset_name digits --resolution 0", "resolution.*greater than 0", status=2),
        Bad("evaluate {ddpm} --train_data_dir {here}/none", "none.* is no folder or file"),
        Bad("figures {vae} --train_data_dir {here}/none", "none.* is no folder or file"),
        Bad("compare {ddpm} {vae}", "nothing tells on which images"),
    ]
    + [
        Bad(f"train_ddpm --train_data_dir {{here}}/images --label_column {column}", says, both(*makes))
        for makes in ((pictures(b"", "last.txt"), put("images/metadata.csv", METADATA)),)
        for column, says in (("score", "'score' holds float64: name a column of classes"), ("kind", "'kind' is not in"))
    ]
    + [
        Bad(
            f"{command} {{broken}}",
            says,
            put("broken/training.json", {**RECORD, **values}) if values is not None else None,
        )
        for command in ("evaluate", "figures")
        for values, says in (
            (None, "nothing tells on which images"),
            ({}, "nothing tells where the local dataset lies"),
            ({"data": 3}, "training.json: data"),
            ({"data": {}}, "training.json: data: source"),
            ({"dataset": "nobody/nothing"}, "nobody/nothing"),
        )
    ]
)

# -- from where others have come to
START = "--pretrained_model_name_or_path"
TRAINED_ON = [
    Bad(f"train_ddpm {START} {{here}}/none", "none"),
    Bad(f"train_ddpm {START} {{vae}}", "vae is a VAE model: a training goes on from a UNet2DModel with its scheduler"),
    Bad(f"train_vae {START} {{ddpm}}", "ddpm is a diffusion model: this needs a VAE"),
    Bad(f"train_ddpm {START} {{ddpm}}", "with betas that are none of hfgen's schedules: pass --ddpm_beta_schedule"),
    Bad(
        f"train_ddpm {START} {{broken}}",
        "GiB|betas",
        changed("scheduler/scheduler_config.json", num_train_timesteps=10**5),
    ),
    Bad(
        f"train_ddpm {START} {{ddpm}} --ddpm_beta_schedule sigmoid --ddpm_num_steps 30 --ddpm_variance_type learned_range",
        "has weights of other shapes than the flags ask for .*leave --ddpm_variance_type",
    ),
    Bad(
        f"train_ddpm {START} {{ddpm}} --ddpm_beta_schedule sigmoid --ddpm_num_steps 30 --resolution 7",
        "resolution=7 cannot be",
    ),
    Bad("train_vae --likelihood discretized_logistic_rgb", "is one of 3 channels, and in_channels=1"),
]

# -- hierarchical VAEs
CHAINS = [
    *(
        Bad("train_mhvae --model_config_name_or_path {here}/m.json", says, put("m.json", {**MHVAE, **values}))
        for values, says in (
            (
                {"latent_sizes": [], "hidden_sizes": []},
                r"latent_sizes=\[\]: write a number for each layer, one layer or more",
            ),
            ({"latent_sizes": [3, 0]}, r"latent_sizes=\[3, 0\]: .* each at least 1"),
            ({"latent_sizes": [3]}, "write one list for each of the 1 layers"),
            ({"latent_sizes": 3}, "MLPMHVAE cannot be built"),
            ({"likelihood": "beta"}, "likelihood='beta': choose one of bernoulli"),
            ({"likelihood": "discretized_logistic_rgb"}, "is one of 3 channels, and in_channels=1"),
            ({"_class_name": "MLPVAE"}, "use one of MLPMHVAE, ConvMHVAE"),
            ({"depth": 3}, "has depth: MLPMHVAE takes no such"),
            ({"latent_sizes": [TRILLION, 2]}, "of memory"),
        )
    ),
    Bad("train_mhvae --latent_sizes 3 2 1", "write one list for each of the 3 layers"),
    Bad("train_mhvae --latent_sizes three", "latent.sizes.*invalid int value: 'three'", status=2),
    Bad("train_mhvae --likelihood beta", "likelihood.*invalid choice: 'beta'", status=2),
    Bad("train_mhvae --free_bits -1", "free_bits=-1"),
    Bad("train_mhvae --objective dreg --free_bits 1", "free_bits=1.0: the importance-weighted bound has no KL term"),
    Bad("train_mhvae --pretrained_model_name_or_path {vae}", "is a VAE model: this needs a hierarchical VAE"),
]

# -- feature networks
EVALUATE = "evaluate {ddpm} --dataset_name digits --samples 20"
TRAIN_FEATURES = "train-features --dataset_name digits --steps 1 --batch_size 4 --output_dir {here}/f"
FEATURES = [
    Bad(f"{EVALUATE} --features dinov2", "--features dinov2 cannot be loaded .*: digits, or a folder"),
    Bad(f"{EVALUATE} --features clip", "--features clip cannot be loaded"),
    Bad(f"{EVALUATE} --features inception", "torch-fidelity .*: pip install 'hfgen.fid.'"),
    Bad(f"{EVALUATE} --features {{ddpm}}", "--features .*ddpm cannot be loaded"),
    Bad("evaluate {ddpm} --dataset_name digits --samples 3", "--samples 3: too few for 3 neighbours"),
    Bad("train_ddpm --features digits", "features='digits': only with --eval_epochs"),
    Bad("train_ddpm --eval_epochs 1 --features {here}/none", "none cannot be loaded"),
    Bad("train_ddpm --eval_epochs -1", "eval_epochs=-1: it must be 0 or greater"),
    Bad("train-features --steps 0", "argument --steps: steps=0", status=2),
    Bad("train-features --dataset_name digits --output_dir ''", "output_dir='' is no name"),
    Bad(TRAIN_FEATURES, "holds thesis.tex, no classifier of hfgen", put("f/thesis.tex")),
    Bad(TRAIN_FEATURES, "is a file: name a folder", put("f")),
    Bad(f"{TRAIN_FEATURES} --label_column none", "none"),
    Bad(
        "train-features --train_data_dir {here}/images --output_dir {here}/f",
        "two classes or more: name their column",
        pictures(PNG),
    ),
]

# -- flows and GANs
FLOWS_AND_GANS = [
    *(
        Bad("train_flow --model_config_name_or_path {here}/f.json", says, put("f.json", {**FLOW, **values}))
        for values, says in (
            ({"coupling": "cubic"}, "coupling='cubic': choose one of spline, affine"),
            ({"scales": 5}, "resolution=8 cannot be halved 5 times"),
            ({"channels": "x"}, "channels='x': a whole number"),
            ({"layers": 10**9}, "layers=1000000000: a whole number"),
            ({"knots": [0, 300]}, r"knots=\[0, 300\]"),
            ({"depth": 3}, "has depth: FlowModel takes no such"),
            ({"layers": 9, "channels": 2**16}, "of memory"),
        )
    ),
    *(
        Bad("train_gan --model_config_name_or_path {here}/g.json", says, put("g.json", {**GAN, **values}))
        for values, says in (
            ({"block_out_channels": [8] * 6}, "resolution=8 cannot be halved 5 times"),
            ({"latent_size": -1}, "latent_size=-1: a whole number"),
            ({"discriminator": [8]}, "is no object of GANDiscriminator's arguments"),
            ({"discriminator": {"depth": 3}}, "has depth: GANDiscriminator takes no such"),
            ({"block_out_channels": [10**6, 10**6]}, "of memory"),
        )
    ),
    Bad("train_flow --dequantization gaussian", "dequantization.*invalid choice: 'gaussian'", status=2),
    Bad("train_flow --pretrained_model_name_or_path {vae}", "is a VAE model: this needs a flow"),
    Bad("train_gan --loss_type wasserstein", "loss_type.*invalid choice: 'wasserstein'", status=2),
    Bad("train_gan --r1_gamma -1", "r1_gamma=-1.0: it must be 0 or greater"),
    Bad("train_gan --r1_interval 0", "r1_interval=0: it must be greater than 0"),
    Bad("sample {flow} --temperature -1", "temperature.*0 or greater", status=2),
    Bad("sample {flow} --temperature nan", "temperature.*0 or greater", status=2),
    Bad("sample {flow} --compile", "compile: a flow draws an image in one step"),
    Bad("sample {flow} --steps 3", "--steps"),
    Bad("sample {gan} --temperature 0.5", "--temperature"),
    Bad("sample {gan} --class_labels 3", "class_labels: this model is told no classes"),
    Bad("sample {gan} --trajectory {here}/a.gif", "one step"),
    Bad("evaluate {gan} --dataset_name digits", "a GAN has no likelihood, .* --samples 10000"),
    Bad("evaluate {gan} --dataset_name digits --iw_samples 3 --samples 20", "--iw_samples"),
    Bad(
        "evaluate {gan} --dataset_name digits --classifier_accuracy 20",
        "told no classes, its samples teach no classifier",
    ),
    Bad("evaluate {gan} --dataset_name digits --classifier_accuracy 1", "classifier_accuracy.*2 or greater", status=2),
    Bad(f"evaluate {{gan}} --dataset_name digits --classifier_accuracy {TRILLION}", "GiB of memory"),
    Bad("evaluate {flow} --dataset_name digits --temperature 0.5", "--temperature: only with --samples"),
]

# -- autoencoders and models of their latents


def latent_autoencoder(likelihood: bool = True, **values: object) -> Callable[[Path], object]:
    return lambda here: save_autoencoder(here / "ae", likelihood, **values)


LATENTS = [
    *(
        Bad(f"train_autoencoder --model_config_name_or_path digits {words}", says, status=status)
        for words, says, status in (
            ("--kl_weight -1", "kl_weight=-1.0: it must be 0 or greater", 1),
            ("--reconstruction huber", "reconstruction.*invalid choice: 'huber'", 2),
            ("--eval_epochs 1", "an autoencoder draws no samples", 1),
            ("--resolution 9", "resolution=9 cannot be halved 1 times", 1),
            ("--pretrained_autoencoder {vae}", "latent_channels and model_config_name_or_path are its own", 1),
            ("--perceptual_weight 1 --perceptual_network {vae}", "perceptual_network=.* cannot be loaded", 1),
        )
    ),
    Bad("train_autoencoder --model_config_name_or_path {here}/a.json", "has depth", put("a.json", {"depth": 3})),
    Bad("train_ddpm --autoencoder {here}/none", "autoencoder=.* cannot be loaded"),
    Bad("train_ddpm --autoencoder {vae}", "cannot be loaded .it is a MLPVAE"),
    *(
        Bad(f"train_ddpm --autoencoder {{here}}/ae {words}", says, latent_autoencoder())
        for words, says in (
            ("--resolution 9", "9x9: .* such as --resolution 8"),
            ("--prediction_type mu", "prediction_type=mu with --autoencoder"),
            ("--ddpm_variance_type learned_range", "take no learned variance"),
            ("--pretrained_model_name_or_path {ddpm}", "is a diffusion model: this needs a latent diffusion"),
        )
    ),
    Bad(
        "train_ddpm --autoencoder {here}/ae",
        "scaling_factor is 0.0 in its config.json: write a number above 0",
        latent_autoencoder(scaling_factor=0.0),
    ),
    Bad("sample {here}/ae", "an autoencoder draws no images of its own", latent_autoencoder()),
    Bad("sample {here}/ae --compile", "compile: an autoencoder", latent_autoencoder()),
    Bad("evaluate {here}/ae --dataset_name digits --samples 20 --steps 3", "--steps", latent_autoencoder()),
]


def captioned(*texts: str | None) -> Callable[[Path], object]:
    """A Parquet file of as many grey pictures as there are texts, in a column "text"."""

    def make(here: Path) -> None:
        picture = io.BytesIO()
        Image.new("L", (8, 8)).save(picture, format="PNG")
        shown = [{"bytes": picture.getvalue(), "path": None}] * len(texts)
        features = datasets.Features(image=IMAGE, text=datasets.Value("string"))
        made = datasets.Dataset.from_dict({"image": shown, "text": list(texts)}, features=features)
        (here / "captions").mkdir()
        pyarrow.parquet.write_table(made.data.table, here / "captions" / "train.parquet")

    return make


LONG_PROMPT = "'the quick brown fox jumps over it'"
TEXT = "train_text_to_image --autoencoder {text} --train_data_dir {here}/captions"
CONTROL = "train_controlnet --pretrained_model_name_or_path"

# -- words and pictures to follow
WORDS = [
    Bad("sample {text} --num_images 1", "draws from words: pass --prompt TEXT"),
    Bad(
        f"sample {{text}} --num_images 1 --prompt {LONG_PROMPT}",
        "prompt 'the quick.* tokens, of which this model takes 16",
    ),
    Bad("sample {text} --prompt a --guidance_scale 0.5", "guidance_scale=0.5.*1, none, or more"),
    Bad("sample {text} --prompt a --compile", "--compile.*leave it out"),
    Bad("sample {text} --prompt a --control x.png", "--control: .*has no such choice"),
    Bad("sample {ddpm} --prompt a", "--prompt: .*has no such choice"),
    Bad("evaluate {text} --dataset_name digits", "no likelihood of images given words"),
    Bad("train_text_to_image", "no autoencoder is named.*pass --autoencoder"),
    Bad(
        "train_text_to_image --autoencoder {ddpm}", "cannot be loaded.*pass a folder or repository of an AutoencoderKL"
    ),
    Bad("train_text_to_image --autoencoder {text} --resolution 12", "multiples of 8 alone, pass --resolution 16"),
    Bad("train_text_to_image --autoencoder {text} --caption_template digit", "caption_template='digit' needs one"),
    Bad(
        "train_text_to_image --autoencoder {wide} --pretrained_model_name_or_path {text}",
        "the autoencoder has latents of 3 channels, and .* draws such of 2",
    ),
    Bad(f"{TEXT} --caption_column text", "no caption in 2 of .* rows", captioned(*["a"] * 20, None, " ")),
    Bad(f"{TEXT} --caption_column words", "'words' is not in the dataset", captioned(*["a"] * 20)),
    Bad(TEXT, "neither captions nor classes to make them of", captioned(*["a"] * 20)),
    Bad("train_controlnet", "nothing to control is named"),
    Bad(f"{CONTROL} {{text}}", "pass --condition canny, skeleton, low_resolution or --conditioning_column"),
    Bad(f"{CONTROL} {{text}} --conditioning_column edges", "conditioning_column='edges' is not in the dataset"),
    Bad(f"{CONTROL} {{ddpm}} --condition canny", "a ControlNet controls a text-to-image model"),
    Bad(f"{CONTROL} {{text}} --condition sobel", "invalid choice: 'sobel'", status=2),
]

VIDEO = "train_video --dataset_name moving:digits --pretrained_model_name_or_path"
CLIP = "sample {video} --prompt seven --num_images 1 --steps 2 --out {here}/a.png"
FRAMES = datasets.List(datasets.Image())


def clips(*lengths: int) -> Callable[[Path], object]:
    """A local dataset of clips of these lengths, in two classes."""
    features = datasets.Features({"clip": FRAMES, "label": datasets.ClassLabel(names=["a", "b"])})
    frames = [[Image.new("L", (8, 8), i)] * length for i, length in enumerate(lengths)]

    def make(here: Path) -> None:
        columns = {"clip": frames, "label": [i % 2 for i in range(len(frames))]}
        rows = datasets.Dataset.from_dict(columns, features=features)
        datasets.DatasetDict(train=rows, test=rows).save_to_disk(str(here / "clips"))

    return make


VIDEOS = [
    Bad(
        "train_video --dataset_name moving:digits",
        "--pretrained_model_name_or_path is missing: name a text-to-image model",
    ),
    Bad(f"{VIDEO} {{ddpm}}", "is a diffusion model, no text-to-image model: name a"),
    Bad(f"{VIDEO} {{text}} --shared_noise 1.5", "shared_noise.*from 0 to 1"),
    Bad(f"{VIDEO} {{text}} --num_frames 1", "num_frames.*2 or greater"),
    Bad(f"{VIDEO} {{text}} --num_frames 40", "clips of 40 frames: .* embeddings for 32: pass --num_frames 32"),
    Bad(f"{VIDEO} {{text}} --motion_num_attention_heads 7", "motion_num_attention_heads=7 does not divide"),
    Bad(f"{VIDEO} {{text}} --resolution 24", "resolution=24: text draws images of .*: leave it out"),
    Bad(f"{VIDEO} {{text}} --dataset_name digits", "is a single picture, no clip: for folders of frames pass"),
    Bad(f"{VIDEO} {{text}} --dataset_name clips:{{here}}/no", "there is no such folder"),
    Bad(
        f"{VIDEO} {{text}} --dataset_name {{here}}/clips",
        "row 10 .* has 3 frames, the first clip 5: pass --num_frames 3",
        clips(*[5] * 10, 3, *[5] * 10),
    ),
    Bad(
        f"{VIDEO} {{text}} --dataset_name {{here}}/clips --num_frames 6",
        "row 0 .* has 5 frames, of 6 that are wanted: leave this clip out, or train with --num_frames 5",
        clips(*[5] * 20),
    ),
    Bad(f"{CLIP} --num_frames 7", "num_frames=7: the motion modules of this model have embeddings for 6"),
    Bad(f"{CLIP} --scheduler ddpm --eta 1 --num_frames 7", "embeddings for 6"),
    Bad(f"{CLIP} --video {{here}}/a.avi", "animations are GIF or MP4 files"),
    Bad("sample {ddpm} --num_images 1 --out {here}/a.png --video {here}/a.gif", "draws images, no clips: leave it out"),
]

GROUPS = {
    "videos": VIDEOS,
    "words": WORDS,
    "latents": LATENTS,
    "flows_and_gans": FLOWS_AND_GANS,
    "features": FEATURES,
    "chains": CHAINS,
    "flags": FLAGS,
    "index": DAMAGED_INDEX,
    "configs": DAMAGED_CONFIGS,
    "weights": DAMAGED_WEIGHTS,
    "places": PLACES,
    "samples": SAMPLES,
    "evaluations": EVALUATIONS,
    "comparisons": COMPARISONS,
    "images": IMAGES,
    "sources": SOURCES,
    "config_files": CONFIG_FILES,
    "trainings": TRAININGS,
    "records": RECORDS,
    "own_images": OWN_IMAGES,
    "trained_on": TRAINED_ON,
}


def changed_vae(here: Path, values: dict) -> None:
    path = here / "broken_vae" / "vae" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def link_out(here: Path) -> None:
    config = here / "broken" / "unet" / "config.json"
    shutil.move(config, here / "secret.json")
    config.symlink_to(here / "secret.json")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models")
    unet = build_unet(UNET, 8, 1, 20)
    UnconditionalDiffusionPipeline(unet, DDPMScheduler(20)).save_pretrained(folder / "ddpm")
    VAEPipeline(build_vae(VAE, 8, 1)).save_pretrained(folder / "vae")
    (folder / "unet.json").write_text(json.dumps(UNET))
    (folder / "vae.json").write_text(json.dumps(VAE))
    (folder / "mhvae.json").write_text(json.dumps(MHVAE))
    FlowPipeline(build_flow(FLOW, 8, 1)).save_pretrained(folder / "flow")
    GANPipeline(build_gan(GAN, 8, 1).generator).save_pretrained(folder / "gan")
    (folder / "flow.json").write_text(json.dumps(FLOW))
    (folder / "gan.json").write_text(json.dumps(GAN))
    save_untrained(folder / "text")
    save_untrained(folder / "wide", latent_channels=3)
    save_unet(folder)
    save_video(folder / "text", folder / "video")
    return {
        name: folder / name
        for name in (
            "video",
            "ddpm",
            "vae",
            "unet.json",
            "vae.json",
            "mhvae.json",
            "flow",
            "gan",
            "flow.json",
            "gan.json",
            "text",
            "wide",
            "text_to_image.json",
        )
    }


def tree(*folders: Path) -> dict[str, bytes | str]:
    """All there is below folders; of a link where it leads to."""
    found: dict[str, bytes | str] = {}
    for path in (path for folder in folders for path in folder.rglob("*")):
        if path.is_symlink():
            found[str(path)] = str(path.readlink())
        else:
            found[str(path)] = path.read_bytes() if path.is_file() else "no file"
    return found


def split(words: str) -> list[str]:
    """As a shell does, without its care for the rest."""
    return [word.strip("'") for word in re.findall(r"'[^']*'|\S+", words)]


def command(words: list[str], models: dict[str, Path], here: Path) -> Callable[[], int]:
    """The command of a row: a trainer gets a tiny model, the digits and a new folder where the row says nothing of these."""
    name, *rest = words or [""]
    trainers = TRAINERS | OTHER_TRAINERS
    if name not in trainers:
        return lambda: main(words)
    given = {word.partition("=")[0] for word in rest}
    family = trainers[name]
    standard = {
        "--dataset_name": "digits",
        "--output_dir": str(here / "out"),
        "--model_config_name_or_path": str(models.get("unet.json" if family == "ddpm" else f"{family}.json", "digits")),
    }
    if family in ("controlnet", "video"):  # its network is that of what it controls
        del standard["--model_config_name_or_path"]
    defaults = [word for flag, value in standard.items() if flag not in given for word in (flag, value)]
    return lambda: run_script(family, [*SMALL, *defaults, *rest])


class Hung(BaseException):
    """Not caught by what catches every error."""


@contextmanager
def no_longer_than(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hung

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def ids() -> list[str]:
    return [f"{group}-{number}" for group, table in GROUPS.items() for number, _ in enumerate(table)]


def run(words: list[str], models: dict[str, Path], here: Path, capsys) -> tuple[int, list[str]]:
    """The exit status of a command, and what it told on stderr beside progress bars."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    capsys.readouterr()
    try:
        with no_longer_than(SECONDS):
            status = command(words, models, here)()
    except SystemExit as end:
        status = end.code
    return status, told(capsys.readouterr().err)


def told(text: str) -> list[str]:
    return [line for line in re.split(r"[\r\n]+", text) if not BAR.search(line)]


@pytest.fixture
def here(tmp_path, monkeypatch, offline) -> Path:
    """A new working directory of a user of the Hub without a network."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["train_x.py"])
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("HF_TOKEN", "hf_alice")
    return folder


@pytest.mark.parametrize("bad", [bad for table in GROUPS.values() for bad in table], ids=ids())
def test_one_line_and_nothing_changed(bad: Bad, models, here, capsys):
    for name, model in (("broken", "ddpm"), ("broken_vae", "vae")):
        if f"{{{name}}}" in bad.words:
            shutil.copytree(models[model], here / name)
    if bad.make is not None:
        bad.make(here)
    places = {"here": here, "broken": here / "broken", "broken_vae": here / "broken_vae", **models}
    words = split(bad.words.format_map({name: str(path) for name, path in places.items()}))
    before = tree(here, models["ddpm"].parent)
    status, lines = run(words, models, here, capsys)
    assert len(lines) == 1, lines
    assert ": error: " in lines[0]
    assert re.search(bad.says, lines[0]), lines[0]
    assert "did not foresee" not in lines[0]
    assert status == bad.status
    assert tree(here, models["ddpm"].parent) == before


def test_the_table_is_large():
    assert len(ids()) >= 150


@contextmanager
def full_disk() -> Iterator[None]:
    """No file can grow, as on a full disk."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize(
    "words",
    [
        "sample {ddpm} --num_images 2 --steps 2",
        "sample {ddpm} --num_images 2 --steps 2 --out {here}/folder",
        "sample {ddpm} --num_images 2 --steps 2 --trajectory {here}/a.gif",
        "evaluate {vae} --dataset_name digits --max_images 10 --iw_samples 2 --out {here}/r.json",
        "figures {vae} --dataset_name digits --max_images 20 --out {here}/figures",
        "card {broken}",
        "publish {broken} alice/x",
        "train_ddpm --max_train_steps 1",
        "train_vae --max_train_steps 1",
    ],
)
def test_a_full_disk_is_one_line_and_leaves_no_file(words, models, here, capsys):
    shutil.copytree(models["ddpm"], here / "broken")
    before = {name for name, kind in tree(here).items() if kind != "no file"}
    places = {"here": here, "broken": here / "broken", **models}
    with full_disk():
        status, lines = run(split(words.format_map(places)), models, here, capsys)
    assert status == 1
    assert len(lines) == 1, lines
    assert re.search(r": error: .*(File too large|No space left).*: ", lines[0])
    assert "did not foresee" not in lines[0]
    left = {name for name, kind in tree(here).items() if kind != "no file"} - before
    assert left <= {str(here / "out/.hfgen/lock")}  # of a training that had its folder already


@pytest.mark.parametrize(
    "words", ["--debug card {here}/none", "card {here}/none --debug", "train_vae --debug --seed -1"]
)
def test_debug_shows_the_traceback(words, models, here, capsys):
    status, lines = run(split(words.format(here=here)), models, here, capsys)
    assert status == 1
    assert lines[0] == "Traceback (most recent call last):"
    assert ": error: " in lines[-1]


@pytest.mark.parametrize("script", TRAINERS)
def test_a_training_that_blows_up_is_one_line_before_any_figure(script, models, here, capsys):
    words = [script, "--learning_rate", "1e30", "--max_train_steps", "4", "--checkpointing_steps", "1"]
    status, lines = run(words, models, here, capsys)
    assert status == 1
    (line,) = [line for line in lines if "error" in line]
    assert re.search("not finite.*start anew with a learning rate below 1e\\+30", line)
    assert [path.name for path in (here / "out").glob("*.png")] == ["training_images.png"]


STREAMED = """
import sys
import hfgen.data.loading
from hfgen.cli.training_script import run_script
hfgen.data.loading.MEMORY_SHARE = 0
sys.exit(run_script("ddpm"))
"""


def start(models: dict[str, Path], out: Path, *words: str, launcher: list[str]) -> subprocess.Popen:
    flags = ["--dataset_name", "digits", "--model_config_name_or_path", models["unet.json"], "--output_dir", out]
    arguments = [*launcher, *map(str, flags), *SMALL, *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(arguments, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.slow
def test_a_worker_that_dies_ends_the_training_with_one_line(models, tmp_path):
    out = tmp_path / "out"
    words = ["--num_epochs", "10000", "--checkpointing_steps", "20"]
    process = start(models, out, *words, launcher=[sys.executable, "-c", STREAMED])
    while not checkpoints(out):
        assert process.poll() is None
        time.sleep(0.05)
    while process.poll() is None:
        for worker in psutil.Process(process.pid).children()[:1]:
            with suppress(psutil.Error):
                worker.kill()
        time.sleep(0.05)
    lines = [line for line in told(process.stderr.read()) if "error" in line or "Traceback" in line]
    assert process.returncode == 1
    assert len(lines) == 1
    assert "a process that decodes images" in lines[0]
    assert "--resume_from_checkpoint latest" in lines[0]
    assert checkpoints(out)
    assert not list(out.glob(".unfinished*"))


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--seed", "-1"], ["--resolution", "7"]])
def test_of_several_processes_one_tells(models, tmp_path, repository, words):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    process = start(
        models, tmp_path / "out", *words, launcher=[*launcher, str(repository / "training" / "train_ddpm.py")]
    )
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert len([line for line in err.splitlines() if line.startswith("train_ddpm.py: error: ")]) == 1
    assert not (tmp_path / "out").exists()
