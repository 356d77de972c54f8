"""From nothing to a class-conditional model of MNIST in a given time, and what every trick of the recipe buys.

    python benchmarks/speedrun.py --seconds 900 --out speedrun.json --markdown speedrun.md
    python benchmarks/speedrun.py --seconds 900 --ablate --synthetic 10000 --out ablated.json --markdown ablated.md

The recipe is `training/mnist-speedrun.yaml`, on a GPU with what `ON_GPU` adds. A row trains for the same seconds: steps are timed
first, and as many are taken as fit. It is measured by the Frechet distance, with its floor, and by the accuracy on real test images of a
classifier that is trained on samples alone (`hfgen evaluate --classifier_accuracy`). Rows that are done are kept in the folder of `--work`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from common import environment, shown_settings, write_json

import hfgen
from hfgen.cli.parser import parse_training_config
from hfgen.core.history import HISTORY_FILE, read_history
from hfgen.data.training_set import load_training_set
from hfgen.families.registry import get_family
from hfgen.results import TRAINING_FILE, EvaluationResult, TrainingRecord

TRAINING = Path(__file__).parents[1] / "training"
MNIST_UNET = "mnist"
FAST_ON_GPU = {"train_batch_size": 512, "eval_batch_size": 1000, "mixed_precision": "bf16", "capture": True}
ON_GPU = {**FAST_ON_GPU, "model_config_name_or_path": MNIST_UNET, "learning_rate": 3e-3}
TIMED_STEPS, READING = 60, 10
# of the seconds, for what is slower than the steps that were timed: held-out losses, and a machine that gets warm
USED = 0.97
# more than the features of the digits' classifier have dimensions
FEWEST_SAMPLES = 65
METRICS = (
    "frechet",
    "frechet_floor",
    "precision",
    "recall",
    "class_accuracy",
    "synthetic_accuracy",
    "synthetic_accuracy_floor",
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is other than in the recipe.

    Attributes:
        training: flags of the trainer.
        sampling: options of the sampler.
        autoencoder: share of the seconds that go to an autoencoder, on whose latents a transformer is trained.
        gan: whether it is `training/gan-mnist.yaml` that is trained, for the same seconds.
    """

    training: dict = field(default_factory=dict)
    sampling: dict = field(default_factory=dict)
    autoencoder: float = 0.0
    gan: bool = False


ROWS = {
    "the recipe": Row(),
    "epsilon": Row(training={"prediction_type": "epsilon"}),
    "min-SNR-5": Row(training={"loss_weighting": "min_snr"}),
    "linear betas": Row(training={"ddpm_beta_schedule": "linear"}),
    "t of each image by itself": Row(training={"time_sampling": "uniform"}),
    "learned variance": Row(training={"ddpm_variance_type": "learned_range"}),
    "batch x 1/2": Row(training={"train_batch_size": 0.5}),
    "batch x 2": Row(training={"train_batch_size": 2}),
    "learning rate x 1/2": Row(training={"learning_rate": 0.5}),
    "learning rate x 2": Row(training={"learning_rate": 2.0}),
    "Muon": Row(training={"optimizer": "muon"}),
    "constant learning rate": Row(training={"lr_scheduler": "constant_with_warmup"}),
    "moving average of some 100 steps": Row(training={"ema_max_decay": 0.99}),
    "moving average of some 2,000 steps": Row(training={"ema_max_decay": 0.9995}),
    "no moving average": Row(training={"use_ema": False}),
    "class always told": Row(training={"class_dropout": 0.0}),
    "preset mnist": Row(training={"model_config_name_or_path": MNIST_UNET}),
    "compiled": Row(training={"compile": True}),
    "latents of 7x7, a third of the time for their autoencoder": Row(autoencoder=1 / 3),
    "a GAN": Row(gan=True),
    "guidance 1.5": Row(sampling={"guidance_scale": 1.5}),
    "half the sampler's steps": Row(sampling={"steps": 0.5}),
    "twice the sampler's steps": Row(sampling={"steps": 2}),
}


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--dataset_name", default="ylecun/mnist", help="(default: %(default)s)")
    add("--config", default=str(TRAINING / "mnist-speedrun.yaml"), help="YAML of the recipe (default: %(default)s)")
    add("--seconds", type=float, help="of training; none: the steps of the recipe, however long they take")
    add("--samples", type=int, default=10_000, help="for the Frechet distance, 65 at least (default: %(default)s)")
    add("--synthetic", type=int, default=60_000, help="that the classifier is trained on (default: %(default)s)")
    add("--steps", type=int, default=10, help="of the sampler (default: %(default)s)")
    add("--batch_size", type=int, default=256, help="samples at once (default: %(default)s)")
    add("--compile", action="store_true", help="the network for sampling")
    add("--ablate", action="store_true", help="all rows instead of the recipe alone")
    add("--rows", nargs="+", type=int, help="numbers of the rows, from 0, the recipe")
    add("--seed", type=int, default=0, help="(default: %(default)s)")
    add("--work", type=Path, default=Path("runs/speedrun"), help="folder of the trainings (default: %(default)s)")
    add("--out", type=Path, help="JSON file of the results")
    add("--markdown", type=Path, help="the table as Markdown")
    args = parser.parse_args(argv)
    if args.samples < FEWEST_SAMPLES:
        parser.error(f"--samples {args.samples}: the Frechet distance needs {FEWEST_SAMPLES} at least")
    return args


def training_flags(args, changes: dict) -> dict:
    """Those that the recipe's file does not say; of a batch, a learning rate and the like that change a factor is given."""
    flags = {
        "dataset_name": args.dataset_name,
        "seed": args.seed,
        "save_images_epochs": 0,
        "logger": "none",
        **(ON_GPU if torch.cuda.is_available() else {}),
    }
    recipe = parse(args, flags).optimization
    scaled = {k: type(getattr(recipe, k))(getattr(recipe, k) * v) for k, v in changes.items() if _is_factor(k)}
    return flags | changes | scaled


def _is_factor(name: str) -> bool:
    return name in ("train_batch_size", "learning_rate")


def parse(args, flags: dict, kind: str = "ddpm", config: str | None = None):
    """A configuration of the trainer."""
    words = [f"--{name}={value}" for name, value in flags.items()]
    return parse_training_config(kind, ["--config", config or args.config, *words])


def steps_within(seconds: float, args, flags: dict, **which) -> int:
    """Optimizer steps that fit into a training of so many seconds, by some that are taken and thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "timed"
        timed = {"max_train_steps": TIMED_STEPS, "logging_steps": READING, "output_dir": out}
        record = hfgen.train(parse(args, flags | timed, **which)).record
        rates = [row["images_per_second"] for row in read_history(out / HISTORY_FILE) if "images_per_second" in row]
    each = record.batch_size / statistics.median(rates[1:])
    begin = max(0.0, record.seconds - TIMED_STEPS * each)  # such as compiling
    return max(1, int((USED * seconds - begin) / each))


def trained(args, flags: dict, folder: Path, seconds: float | None, **which) -> Path:
    """The folder of a training, which is done where it is not yet there."""
    if not (folder / TRAINING_FILE).is_file():
        steps = {} if seconds is None else {"max_train_steps": steps_within(seconds, args, flags, **which)}
        hfgen.train(parse(args, flags | steps | {"output_dir": folder, "overwrite_output_dir": True}, **which))
    return folder


def trainings(args, row: Row) -> list[Path]:
    """Folders of the trainings of a row, the model's last."""
    told = [
        row.training,
        row.autoencoder,
        row.gan,
        args.seconds,
        args.seed,
        args.dataset_name,
        Path(args.config).read_text(),
    ]
    key = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]
    folder = args.work / key
    common = {"dataset_name": args.dataset_name, "seed": args.seed, "save_images_epochs": 0, "logger": "none"}
    common["validation_split"] = "none"  # no such split: held out is a part of the training's, as by the recipe
    if row.gan:
        which = {"kind": "gan", "config": str(TRAINING / "gan-mnist.yaml")}
        return [trained(args, common | {"class_conditional": True, "eval_epochs": 0}, folder, args.seconds, **which)]
    if not row.autoencoder:
        return [trained(args, training_flags(args, row.training), folder, args.seconds)]
    if args.seconds is None:
        raise SystemExit("a row with an autoencoder shares seconds out: pass --seconds")
    common |= FAST_ON_GPU if torch.cuda.is_available() else {}
    share = row.autoencoder * args.seconds
    which = {"kind": "autoencoder", "config": str(TRAINING / "autoencoder-mnist.yaml")}
    first = trained(args, common, folder.with_name(f"{key}-autoencoder"), share, **which)
    which = {"config": str(TRAINING / "dit-mnist.yaml")}
    flags = common | {"autoencoder": str(first)}
    left = args.seconds - share - seconds_to_encode(parse(args, flags, **which))
    return [first, trained(args, flags, folder, left, **which)]


def seconds_to_encode(config) -> float:
    """Of all images, which comes before the first step on latents."""
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    images = load_training_set(config.data, channels=None, resolution=None, seed=0, accelerator=accelerator)
    start = time.perf_counter()
    get_family("ddpm").for_training(config).represented(config, images, accelerator.device, show_progress=False)
    return time.perf_counter() - start


def measured(args, row: Row, folder: Path) -> EvaluationResult:
    """The samples of a model, measured where they are not yet."""
    steps = max(1, int(args.steps * row.sampling.get("steps", 1)))
    options = {} if row.gan else {**row.sampling, "steps": steps}
    key = "-".join(["drawn", *(f"{name}-{value:g}" for name, value in options.items())])
    out = folder / f"{key}-{args.samples}-{args.synthetic}.json"
    if not out.is_file():
        asked = {"samples": args.samples, "classifier_accuracy": args.synthetic, "batch_size": args.batch_size}
        data = {"dataset_name": args.dataset_name, "split": "test", "seed": args.seed}
        hfgen.evaluate(folder, out=out, compile=args.compile and not row.gan, **data, **asked, **options).save(out)
    return EvaluationResult.load(out)


def measure(args, name: str) -> dict:
    """A row of the table."""
    folders = trainings(args, ROWS[name])
    records = [TrainingRecord.load(folder / TRAINING_FILE) for folder in folders]
    result = measured(args, ROWS[name], folders[-1])
    return {
        "name": name,
        "seconds": sum(record.seconds for record in records),
        "cpu_seconds": None if records[-1].cpu_seconds is None else sum(record.cpu_seconds for record in records),
        "steps": records[-1].steps,
        "batch_size": records[-1].batch_size,
        "parameters": result.parameters,
        **{key: result.metrics[key].mean for key in METRICS},
        "samples": result.synthetic.how,
        "seconds_sampling": result.synthetic.seconds_sampling,
    }


def rows(args) -> Iterator[dict]:
    """Those that are asked for, each as it is measured."""
    names = list(ROWS)
    chosen = args.rows if args.rows is not None else range(len(names) if args.ablate else 1)
    for number in chosen:
        yield measure(args, names[number])


def markdown(result: dict) -> str:
    """The table, with what it was made by and on."""
    settings, first = result["settings"], result["rows"][0]
    head = "| | seconds | steps x batch | Frechet (not FID) | precision | recall | right class | accuracy of the classifier | seconds to draw |"
    lines = [
        f"| {row['name']} | {row['seconds']:.0f} | {row['steps']:,} x {row['batch_size']} | {row['frechet']:.3f} | {row['precision']:.3f} | "
        f"{row['recall']:.3f} | {row['class_accuracy']:.3f} | {row['synthetic_accuracy']:.4f} | {row['seconds_sampling']:.0f} |"
        for row in result["rows"]
    ]
    how = (
        f"`python benchmarks/speedrun.py` on {settings['dataset_name']}: training to the end of the last step; {settings['samples']:,} "
        f"samples for the Frechet distance, floor {first['frechet_floor']:.3f} (training images); a classifier trained on "
        f"{settings['synthetic']:,} samples alone, floor {first['synthetic_accuracy_floor']:.4f} (as many real images); samples by "
        f"{first['samples']} unless the row says otherwise. {result['device']}, "
        + ", ".join(f"{name} {version}" for name, version in result["versions"].items())
        + "."
    )
    title = "# The speedrun" if len(result["rows"]) == 1 else "# The speedrun, trick by trick"
    return "\n".join([title, "", head, "|---|---|---|---|---|---|---|---|---|", *lines, "", how])


def main(argv=None):
    args = parse_args(argv)
    result = {**environment(), "settings": shown_settings(args), "rows": []}
    for row in rows(args):
        result["rows"].append(row)
        if args.out is not None:
            write_json(args.out, result)
        if args.markdown is not None:
            args.markdown.write_text(markdown(result) + "\n")
    print(markdown(result))


if __name__ == "__main__":
    main()
