"""What training, sampling and the bound cost in time and memory as the work grows, and on paper what more devices would buy.

    python benchmarks/scaling.py --out docs/benchmarks/scaling.json --markdown docs/benchmarks/scaling.md

Everything is measured on the CPU, each row in a process of its own, so that its peak memory is its own. `--small` does the same in small.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import train_throughput as throughput
from accelerate import Accelerator
from common import environment, shown_settings, table, untrained, write_json
from datasets import Dataset, Features, Image

import hfgen
from hfgen.configs.training import DataConfig
from hfgen.core.device import keep_freed_memory
from hfgen.core.history import HISTORY_FILE, read_history
from hfgen.data.training_set import load_training_set
from hfgen.results import TRAINING_FILE, TrainingRecord

TRAINER = Path(__file__).parents[1] / "training" / "train_ddpm.py"
UNET = "grey-32"
DIGITS_SHAPE = (1, 8, 8)
# of the part on paper: bytes a second and seconds of a message between two neighbours
ETHERNET, NVLINK = (1.25e9, 50e-6), (300e9, 10e-6)
GPU_TO_CPU = 100
MEMORY = "MiB more"


@dataclass(frozen=True, kw_only=True)
class Size:
    """The values of each axis, the steps that are timed, and by which clock."""

    side: tuple[int, ...] = (16, 32, 64, 128)
    batch: tuple[int, ...] = (8, 32, 128)
    images: tuple[int, ...] = (2_000, 10_000, 50_000)
    processes: tuple[int, ...] = (1, 2)
    num_steps: tuple[int, ...] = (10, 100, 1000)
    drawn: tuple[int, ...] = (64, 256, 1024)
    evaluations: tuple[int, ...] = (1_000, 4_000, 16_000)
    timed: int = 3
    clock: Callable[[], float] = time.perf_counter


SMALL = Size(
    side=(8, 16),
    batch=(2, 4),
    images=(20, 40),
    processes=(1, 2),
    num_steps=(2, 4),
    drawn=(2, 4),
    evaluations=(100, 200),
    timed=1,
)


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--small", action="store_true", help="a few steps, to try the script")
    add("--axes", nargs="+", choices=list(AXES), default=list(AXES), help="(default: all)")
    add("--cpu_time", action="store_true", help="seconds of the processor, for a machine that has other things to do")
    add("--out", type=Path, required=True, help="JSON file; axes that are measured anew replace those in it")
    add("--markdown", type=Path, help="the page with the tables")
    args = parser.parse_args(argv)
    args.size = replace(
        SMALL if args.small else Size(), clock=time.process_time if args.cpu_time else time.perf_counter
    )
    return args


def made(count: int, side: int) -> Dataset:
    """Smooth grey images of side x side, as PNG."""
    rows = np.random.default_rng(0).integers(0, 256, (count, 4, 4), dtype=np.uint8)
    pictures = rows.repeat(side // 4, axis=1).repeat(side // 4, axis=2)
    return Dataset.from_dict({"image": list(pictures)}, features=Features({"image": Image()}))


def training(size: Size, *, count: int = 600, side: int = 32, batch: int = 16) -> dict:
    """Loading images and training on them: seconds of both, the second a step."""
    dataset, start = made(count, side), size.clock()
    data = DataConfig(dataset=dataset, validation_split=None)
    accelerator = Accelerator(cpu=True, step_scheduler_with_optimizer=False)
    images = load_training_set(data, channels=1, resolution=side, seed=0, accelerator=accelerator)
    loaded = size.clock() - start
    args = throughput.parse(["--model", UNET, "--batch_size", str(batch)])
    kind = throughput.KINDS[args.kind](args, images)
    loop = throughput.OurLoop(accelerator, images, kind, args)
    loop(1)
    each = statistics.median(seconds(size, partial(loop, 1)) for _ in range(size.timed))
    parameters = sum(p.numel() for p in kind.model.parameters())
    return {"s to load": loaded, "s a step": each, "images/s": batch / each, "parameters": parameters}


def processes(size: Size, *, number: int) -> dict:
    """A training of the digits by DDP, the same whole batch shared out; torchrun, as accelerate launch --cpu starts one process."""
    steps = 12 * size.timed
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "model"
        flags = {
            "dataset_name": "digits",
            "train_batch_size": 64 // number,
            "max_train_steps": steps,
            "logging_steps": max(2, steps // 6),
        }
        flags |= {"save_images_epochs": 0, "logger": "none", "output_dir": out}
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(number)]
        subprocess.run([*launch, str(TRAINER), *(f"--{k}={v}" for k, v in flags.items())], check=True)
        if TrainingRecord.load(out / TRAINING_FILE).processes != number:
            raise SystemExit(f"{number} processes were asked for and others ran")
        rates = [row["images_per_second"] for row in read_history(out / HISTORY_FILE) if "images_per_second" in row]
    rate = statistics.median(rates[1:])
    return {"s a step": 64 / rate, "images/s": rate}


def ancestral(size: Size, *, steps: int) -> dict:
    """As many steps of ancestral sampling as the model has, of 16 images."""
    model = untrained("digits", DIGITS_SHAPE, steps, device="cpu")
    draw = partial(hfgen.sample, model, num_images=16, scheduler="ddpm")
    draw(steps=1)
    taken = seconds(size, partial(draw, steps=steps))
    return {"s": taken, "ms an evaluation of 16": 1000 * taken / steps}


def drawn(size: Size, *, count: int) -> dict:
    """Images of the default sampler in 5 steps, 64 at once."""
    model = untrained("digits", DIGITS_SHAPE, device="cpu")
    hfgen.sample(model, num_images=64, steps=1)
    taken = seconds(size, partial(hfgen.sample, model, num_images=count, batch_size=64, steps=5))
    return {"s": taken, "images/s": count / taken}


def bound(size: Size, *, evaluations: int) -> dict:
    """The bound on test images of the digits; loading them, 0.1 s or so, is in it."""
    model = untrained("digits", DIGITS_SHAPE, device="cpu")
    start = size.clock()
    result = hfgen.evaluate(model, dataset_name="digits", split="test", evaluations=evaluations)
    taken = size.clock() - start
    error = result.headline("bound", "bits/dim").standard_error
    return {
        "s": taken,
        "evaluations/s": evaluations / taken,
        "standard error": error,
        "error x sqrt(n)": error * evaluations**0.5,
    }


def seconds(size: Size, act: Callable[[], object]) -> float:
    """That it takes."""
    start = size.clock()
    act()
    return size.clock() - start


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A table: what is varied, by what it is called in `Size` and by the function that measures a row; `growing` is looked at."""

    title: str
    told: str
    size: str
    measure: Callable[..., dict]
    argument: str
    growing: tuple[str, ...] = ("s a step",)
    # whether the work is done in the process that is measured
    has_memory: bool = True


AXES = {
    axis.size: axis
    for axis in (
        Axis(
            title="Resolution",
            told=f"A step of the preset `{UNET}` on 16 images.",
            size="side",
            measure=training,
            argument="side",
        ),
        Axis(
            title="Batch",
            told=f"A step of the preset `{UNET}` on images of 32x32.",
            size="batch",
            measure=training,
            argument="batch",
        ),
        Axis(
            title="Images to train on",
            told="PNG of 32x32, decoded into memory, and the same step on 16 of them.",
            size="images",
            measure=training,
            argument="count",
            growing=("s to load", "s a step"),
        ),
        Axis(
            title="Processes",
            told="64 digits a step, shared out over processes of this one machine; always seconds of the clock.",
            size="processes",
            measure=processes,
            argument="number",
            has_memory=False,
        ),
        Axis(
            title="T",
            told="Ancestral sampling of 16 digits by a model of T steps.",
            size="num_steps",
            measure=ancestral,
            argument="steps",
            growing=("s",),
        ),
        Axis(
            title="Images drawn",
            told="Digits in 5 steps, 64 at once.",
            size="drawn",
            measure=drawn,
            argument="count",
            growing=("s",),
        ),
        Axis(
            title="Network evaluations of the bound",
            told="Test images of the digits, an untrained network: the error falls as the root of what is spent.",
            size="evaluations",
            measure=bound,
            argument="evaluations",
            growing=("s",),
        ),
    )
}
CLOCKS = {
    False: "Seconds are those of the clock.",
    True: "Seconds are the processor's (`--cpu_time`), as the machine had other things to do, which slow it down nevertheless.",
}


def in_own_process(measure: Callable[[], dict], has_memory: bool) -> dict:
    """What it returns, with the memory that it took beyond that of a process which has only imported everything.

    The process is forked, so that its imports cost nothing; nothing has been computed before that a fork would break.
    """
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)

    def run() -> None:
        keep_freed_memory()
        before = throughput.peak_memory_mib()
        row = measure()
        there.send(row | ({MEMORY: throughput.peak_memory_mib() - before} if has_memory else {}))

    process = context.Process(target=run)
    process.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        raise SystemExit("the process of a row has failed: see above") from None
    finally:
        process.join()


def rows(axis: Axis, size: Size) -> list[dict]:
    """The table of an axis."""
    found = []
    for value in getattr(size, axis.size):
        measure = partial(axis.measure, size, **{axis.argument: value})
        row = {axis.size: value} | in_own_process(measure, axis.has_memory)
        print(axis.title, json.dumps(row), flush=True)
        found.append(row)
    return found


def exponent(rows: Sequence[dict], what: str, value: str) -> float:
    """The slope of the last two rows on logarithmic scales: 1 is in proportion."""
    (x, y), (x_2, y_2) = [(row[what], row[value]) for row in rows[-2:]]
    return math.log(y_2 / y) / math.log(x_2 / x)


def growth(axis: Axis, rows: Sequence[dict]) -> str:
    """A sentence on how time and memory of a table grow."""
    keys = [key for key in (*axis.growing, MEMORY) if rows[0].get(key, 0) > 0]
    if len(rows) < 2:
        return ""
    told = [f"`{key}` with exponent {exponent(rows, axis.size, key):.2f}" for key in keys]
    return f"From the last row but one to the last grow {', '.join(told)}."


def line(rows: Sequence[dict], what: str, value: str) -> tuple[float, float]:
    """Intercept, not below 0, and slope of the straight line through a table."""
    slope, intercept = np.polyfit([row[what] for row in rows], [row[value] for row in rows], 1)
    return max(0.0, float(intercept)), float(slope)


def on_paper(rows: Sequence[dict]) -> list[dict]:
    """Seconds of a step of 128 images on more devices, by the table of batches and by an all-reduce in a ring.

    A step of b images takes a + c b; its gradients go 2 (N - 1) / N times over the slowest link, in 2 (N - 1) messages.
    """
    fixed, each = line(rows, "batch", "s a step")
    size, whole, found = 4 * rows[0]["parameters"], rows[-1]["batch"], []
    for name, number, speed, (bandwidth, latency) in (
        ("this machine", 1, 1, ETHERNET),
        ("10 machines as this one, 10 Gbit/s", 10, 1, ETHERNET),
        (f"one GPU, if it is {GPU_TO_CPU} times as fast", 1, GPU_TO_CPU, NVLINK),
        ("8 such GPUs, 300 GB/s", 8, GPU_TO_CPU, NVLINK),
    ):
        message = 2 * (number - 1) / number * size / bandwidth + 2 * (number - 1) * latency
        step, shared = (fixed + each * whole) / speed + message, (fixed + each * whole / number) / speed + message
        found.append(
            {
                "devices": name,
                "ms a step, batch shared": 1000 * shared,
                "of which messages": message / shared,
                "images/s": whole / shared,
                f"images/s, {whole} each": number * whole / step,
            }
        )
    return found


def markdown(result: dict) -> str:
    """The page."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [
        "# How cost grows",
        "",
        "Time and memory against each size of the work, each row in a process of its own; `MiB more` is its peak memory beyond that of a",
        "process that has only imported everything. Written by",
        "",
        "```sh",
        "python benchmarks/scaling.py --out docs/benchmarks/scaling.json --markdown docs/benchmarks/scaling.md",
        "```",
        "",
        f"on {result['device']} ({versions}). {CLOCKS[result['settings']['cpu_time']]}",
    ]
    for name, found in result["axes"].items():
        axis = AXES[name]
        hidden = {"parameters", "s to load"}.difference(axis.growing)
        shown = [{axis.title if k == name else k: v for k, v in row.items() if k not in hidden} for row in found]
        lines += ["", f"## {axis.title}", "", axis.told, "", *table(shown), "", growth(axis, found)]
    if len(result["axes"].get("batch", [])) > 1:
        lines += ["", *paper(result["axes"]["batch"])]
    return "\n".join(lines).rstrip() + "\n"


def paper(batches: Sequence[dict]) -> list[str]:
    """The part that is not measured."""
    fixed, each = line(batches, "batch", "s a step")
    parameters = batches[0]["parameters"]
    return [
        "## More devices, on paper",
        "",
        "Nothing of this part is measured. By the table of batches a step of $b$ images takes "
        f"$a + c\\,b$ with $a = {1000 * fixed:.1f}$ ms and $c = {1000 * each:.2f}$ ms;",
        f"the gradients of {parameters:,} parameters in float32, {4 * parameters / 1e6:.1f} MB, are summed in a ring of $N$ devices, which takes",
        "$2 (N - 1) / N$ times their size over the bandwidth and $2 (N - 1)$ latencies (50 µs of the network, 10 µs between GPUs). That a GPU is",
        f"{GPU_TO_CPU} times as fast as this CPU is an assumption; `benchmarks/gpu.py` measures it.",
        "",
        *table(on_paper(batches)),
        "",
        "The smaller a device's share of a batch, the more of its time goes to what does not shrink, $a$ and the messages: more devices pay by",
        "larger batches (the last column), or by larger networks. Samples and the bound need no messages: N devices take an N-th of the time and",
        "what it takes each to start.",
    ]


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # nothing of a GPU is measured, and none would survive a fork
    before = json.loads(args.out.read_text())["axes"] if args.out.is_file() else {}
    found = {name: before[name] for name in AXES if name in before and name not in args.axes}
    for name in args.axes:
        found[name] = rows(AXES[name], args.size)
        settings = {key: value for key, value in shown_settings(args).items() if key != "size"}
        result = {**environment(), "settings": settings, "axes": {key: found[key] for key in AXES if key in found}}
        write_json(args.out, result)
        if args.markdown is not None:
            args.markdown.write_text(markdown(result))


if __name__ == "__main__":
    main()
