"""Sample quality and speed against the number of network evaluations, for each sampler.

`python benchmarks/sampling.py model_cards/ddpm-mnist --samples 500 --out sampling.json --plot sampling.png`

Every sampler draws as many images from the same noise with 5, 10, ... network evaluations each; Frechet distance, precision and
recall are those of `hfgen evaluate`, against as many images of the test split; the floor takes training images for
samples. Images/s are set beside those of the bare network evaluations at the same batch size, timed in turn with them.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from common import environment, shown_settings, synchronize, write_json
from tqdm.auto import tqdm

from hfgen.configs.evaluation import EvaluationConfig
from hfgen.core.errors import HfgenError
from hfgen.core.plotting import new_figure, save_figure
from hfgen.core.resume import Resumable
from hfgen.data.loading import ImagesInMemory
from hfgen.drawing.compiled import compile_unet
from hfgen.evaluation.networks import load_feature_network
from hfgen.evaluation.quality import frechet_distance, precision_recall
from hfgen.evaluation.samples import Draws, real_images
from hfgen.families.base import make_options
from hfgen.library import load
from hfgen.pipelines.denoising import image_shape
from hfgen.schedulers import SAMPLER_NAMES

EVALUATIONS = (5, 10, 20, 50, 100, 250, 1000)
BARE_CALLS = 20
CHOICES = {"schedulers": None, "evaluations": None, "plot": None}


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("pipeline", help="folder of a diffusion pipeline, or a repository on the Hub")
    add("--dataset_name", default="ylecun/mnist", help="(default: %(default)s)")
    add("--split", default="test", help="(default: %(default)s)")
    add("--train_split", default="train", help="(default: %(default)s)")
    add("--features", help="a feature network, as for `hfgen evaluate` (default: digits)")
    add("--samples", type=int, default=1000, help="images of each row (default: %(default)s)")
    add("--schedulers", nargs="+", choices=SAMPLER_NAMES, default=list(SAMPLER_NAMES))
    add("--evaluations", nargs="+", type=int, default=list(EVALUATIONS), help="(default: %(default)s)")
    add("--batch_size", type=int, default=64, help="(default: %(default)s)")
    add("--seed", type=int, default=0, help="(default: %(default)s)")
    add("--device", help="(default: the first of cuda, mps and cpu there is)")
    add("--compile", action="store_true", help="torch.compile the UNet, of the bare network too")
    add("--out", type=Path, help="JSON file of the results")
    add("--plot", type=Path, help="PNG file of the curves")
    return parser.parse_args(argv)


def steps_for(name: str, evaluations: int) -> int:
    """Steps that take `evaluations` network calls: Heun's take two each, but for the last."""
    return (evaluations + 1) // 2 if name == "heun" else evaluations


@torch.no_grad()
def bare_images_per_second(pipeline, batch_size: int, evaluations: int) -> float:
    """Images/s if sampling were nothing but its network evaluations."""
    unet, device = pipeline.unet, pipeline.device
    x = torch.randn(batch_size, *image_shape(pipeline), device=device)
    timestep = torch.tensor(500, device=device).clamp(max=pipeline.scheduler.config.num_train_timesteps - 1)
    calls = min(BARE_CALLS, evaluations)
    unet(x, timestep)
    synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        unet(x, timestep)
    synchronize(device)
    return batch_size * calls / evaluations / (time.perf_counter() - start)


def finished_rows(args, settings: dict) -> list[dict]:
    """Those of an earlier run; of one with other settings none."""
    if args.out is None or not args.out.is_file():
        return []
    earlier = json.loads(args.out.read_text())
    return earlier["rows"] if {**earlier["settings"], **CHOICES} == {**settings, **CHOICES} else []


def draws_of(args, model, **options) -> Draws:
    """The images of a row."""
    chosen = make_options(model.family.sampling_options, options, whose=model.name)
    return Draws(
        sampler=model.family.sampler(model.pipeline, chosen),
        device=model.pipeline.device,
        count=args.samples,
        seed=args.seed,
        batch_size=args.batch_size,
        resumable=Resumable(None),
    )


def measure(args, model, network, reference, name: str, evaluations: int) -> dict:
    """A row: a sampler with a number of network evaluations."""
    steps = steps_for(name, evaluations)
    calls = 2 * steps - 1 if name == "heun" else steps
    bare = bare_images_per_second(model.pipeline, args.batch_size, calls)
    images, seconds = draws_of(args, model, scheduler=name, steps=steps).images()
    after = bare_images_per_second(model.pipeline, args.batch_size, calls)
    features = network(ImagesInMemory(images))
    precision, recall = precision_recall(features, reference)
    return {
        "scheduler": name,
        "evaluations": evaluations,
        "frechet": frechet_distance(features, reference),
        "precision": precision,
        "recall": recall,
        "images_per_second": args.samples / seconds,
        "bare_images_per_second": (bare + after) / 2,
        "share_of_bare": args.samples / seconds / ((bare + after) / 2),
    }


def plot(rows: list[dict], floor: float, path: Path):
    figure = new_figure(11, 4.2)
    left, right = figure.subplots(1, 2)
    for name in dict.fromkeys(row["scheduler"] for row in rows):
        own = [row for row in rows if row["scheduler"] == name]
        evaluations = [row["evaluations"] for row in own]
        left.plot(evaluations, [row["frechet"] for row in own], "o-", ms=3, label=name)
        right.plot(evaluations, [row["recall"] for row in own], "o-", ms=3, label=name)
    left.axhline(floor, ls="--", lw=0.8, color="grey", label="training images")
    left.set(xscale="log", yscale="log", xlabel="network evaluations", ylabel="Frechet distance (not FID)")
    right.set(xscale="log", xlabel="network evaluations", ylabel="recall")
    for axes in (left, right):
        axes.grid(alpha=0.3, which="both")
    left.legend(loc="upper right", fontsize="small", ncols=2)
    save_figure(figure, path)


def main(argv=None):
    args = parse_args(argv)
    model = load(args.pipeline, device=args.device)
    if args.compile:
        compile_unet(model.module)
    network = load_feature_network(args.features, model.pipeline.device)
    data = EvaluationConfig(dataset_name=args.dataset_name, split=args.split, train_split=args.train_split)
    real = real_images(draws_of(args, model), network, model.image_shape, data)
    reference, floor = real.reference, real.floor
    floor = {"frechet": frechet_distance(floor, reference), "precision_recall": precision_recall(floor, reference)}
    grid = [(name, evaluations) for name in args.schedulers for evaluations in args.evaluations]
    settings = shown_settings(args)
    rows = finished_rows(args, settings)
    done = {(row["scheduler"], row["evaluations"]) for row in rows}
    print(f"floor: Frechet {floor['frechet']:.3f}, precision and recall {floor['precision_recall']}")
    for name, evaluations in tqdm([key for key in grid if key not in done], desc="rows"):
        try:
            row = measure(args, model, network, reference, name, evaluations)
        except HfgenError as error:  # such as more steps than the scheduler can take
            tqdm.write(f"{name}, {evaluations} evaluations: {error}")
            continue
        rows = sorted([*rows, row], key=lambda r: (SAMPLER_NAMES.index(r["scheduler"]), r["evaluations"]))
        tqdm.write(shown(row))
        if args.out is not None:
            write_json(args.out, {**environment(), "settings": settings, "floor": floor, "rows": rows})
    print("scheduler        calls  Frechet precision  recall  images/s  of bare", *map(shown, rows), sep="\n")
    if args.plot is not None:
        plot(rows, floor["frechet"], args.plot)


def shown(row: dict) -> str:
    return (
        f"{row['scheduler']:<16} {row['evaluations']:>5} {row['frechet']:>8.3f} {row['precision']:>9.3f} "
        f"{row['recall']:>7.3f} {row['images_per_second']:>9.2f} {row['share_of_bare']:>8.3f}"
    )


if __name__ == "__main__":
    main()
