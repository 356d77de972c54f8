"""What hfgen does on a GPU, measured in one run of at most eight minutes.

    python benchmarks/gpu.py --dataset_name ylecun/mnist --out docs/benchmarks/gpu.json --markdown docs/benchmarks/gpu.md

Each part is a process of its own with a time limit of its own. Its rows are written as they come, and what there is of a part that was
ended or has failed stays. `--small` does the same in small, on whatever device there is.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from common import cell, environment, load_images, shown_settings, table, untrained, write_json

import hfgen
from hfgen.core.history import HISTORY_FILE, read_history

Rows = Iterator[dict]
MARK = "ROW "
TOLD_LINES, TOLD_CHARACTERS = 20, 2000
TRAINER = Path(__file__).parents[1] / "training" / "train_ddpm.py"
PRECISIONS = {"no": "float32", "bf16": "bf16"}
LEAST_SECONDS = 5.0
BARE_CALLS = 20
FSDP2 = "--use_fsdp --fsdp_version 2 --fsdp_auto_wrap_policy SIZE_BASED_WRAP --fsdp_min_num_params 100000".split()


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured.

    Attributes:
        modes: of sampling, those that take long to compile last.
        batches: images a step, of training; of VAEs and samples below.
        images: of a round of training, at least 5 steps.
        steps: of the sampler.
        speedrun: words for benchmarks/speedrun.py.
        patience: times as long as `Part` says.
    """

    unet: str = "mnist"
    vae: str = "mnist-50d"
    modes: tuple[str, ...] = ("eager", "captured", "compiled")
    batches: tuple[int, ...] = (64, 256, 1024)
    vae_batches: tuple[int, ...] = (128, 1024)
    drawn_at_once: tuple[int, ...] = (64, 512)
    images: int = 2048
    rounds: int = 3
    steps: int = 20
    evaluations: int = 100_000
    fsdp_steps: int = 60
    speedrun: str = "--seconds 60 --batch_size 512"
    patience: float = 1.0


SMALL = Size(
    unet="digits",
    vae="digits",
    modes=("eager",),
    batches=(8,),
    vae_batches=(500,),
    drawn_at_once=(4,),
    images=16,
    rounds=1,
    steps=2,
    evaluations=100,
    fsdp_steps=2,
    speedrun="--seconds 1 --steps 1 --samples 70 --synthetic 70 --batch_size 70",
    patience=10.0,
)


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--dataset_name", default="ylecun/mnist", help="(default: %(default)s)")
    add("--minutes", type=float, default=8.0, help="for everything (default: %(default)s)")
    add("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="(default: all)")
    add("--small", action="store_true", help="a few steps of small models, to try the script")
    add("--out", type=Path, required=True, help="JSON file of the results")
    add("--markdown", type=Path, help="the tables as Markdown")
    add("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.size = SMALL if args.small else Size()
    return args


def training(args, mode: str) -> Rows:
    """The training loop beside the bare step and, of the eager ones, beside a DataLoader of PIL images."""
    import train_throughput as throughput

    if mode == "captured" and not torch.cuda.is_available():
        raise SystemExit("only on a GPU are steps captured")
    images = load_images(args.dataset_name, Accelerator())
    loops = throughput.LOOPS if mode == "eager" else throughput.LOOPS[:2]
    for precision, batch in [(precision, batch) for batch in args.size.batches for precision in PRECISIONS]:
        words = ["--dataset_name", args.dataset_name, "--model", args.size.unet, "--loops", *loops]
        words += ["--batch_size", str(batch), "--steps", str(max(5, args.size.images // batch))]
        words += ["--rounds", str(args.size.rounds), "--mixed_precision", precision]
        words += {"eager": [], "compiled": ["--compile"], "captured": ["--capture"]}[mode]
        start_anew()
        rates, _ = throughput.time_in_turn(throughput.parse(words), images)
        for name, row in throughput.medians(rates).items():
            yield {"batch": batch, "precision": PRECISIONS[precision], "loop": name} | _rates(row)


def vae_epoch(args) -> Rows:
    """Whole epochs of a VAE."""
    import train_throughput as throughput

    images = load_images(args.dataset_name, Accelerator())
    for batch in args.size.vae_batches:
        loops = throughput.LOOPS if batch == args.size.vae_batches[0] else throughput.LOOPS[:2]
        words = ["--kind", "vae", "--model", args.size.vae, "--batch_size", str(batch), "--epoch", "--loops", *loops]
        words += ["--dataset_name", args.dataset_name, "--rounds", str(args.size.rounds)]
        start_anew()
        rates, steps = throughput.time_in_turn(throughput.parse(words), images)
        for name, row in throughput.medians(rates).items():
            yield (
                {"batch": batch, "loop": name} | _rates(row) | {"s an epoch": steps * batch / row["images_per_second"]}
            )


def _rates(row: dict) -> dict:
    return {"images/s": row["images_per_second"], "to the bare step": row["ratio_to_bare_step"]}


def start_anew() -> None:
    """Forget the precision of an earlier accelerator, and what was compiled for other shapes."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


def sampling(args) -> Rows:
    """Images/s of the sampler, of an untrained network, beside those of its evaluations alone."""
    from sampling import bare_images_per_second

    from hfgen.drawing.draw import draw_samples
    from hfgen.families.base import make_options

    shape = load_images(args.dataset_name, Accelerator()).shape
    for mode, batch in [(mode, batch) for mode in args.size.modes for batch in args.size.drawn_at_once]:
        start_anew()
        model = untrained(args.size.unet, shape)
        if mode == "compiled":
            model.module.compile(dynamic=False)
        options = make_options(model.family.sampling_options, {"steps": args.size.steps}, whose=model.name)
        sampler = model.family.sampler(model.pipeline, options, compile=mode == "captured")
        draw = partial(draw_samples, sampler, device=model.module.device, batch_size=batch, show_progress=False)
        draw(num_images=batch)
        seconds = draw(num_images=args.size.rounds * batch).seconds
        rate, bare = args.size.rounds * batch / seconds, bare_images_per_second(model.pipeline, batch, args.size.steps)
        yield {"batch": batch, "mode": mode, "images/s": rate, "of evaluations alone": bare, "share": rate / bare}


def likelihood(args) -> Rows:
    """Network evaluations/s of the bound, of an untrained network, beside the bare network's."""
    from sampling import bare_images_per_second

    shape = load_images(args.dataset_name, Accelerator()).shape
    for batch in args.size.batches:
        model = untrained(args.size.unet, shape)
        data = {"dataset_name": args.dataset_name, "split": "test", "batch_size": batch}
        found = hfgen.evaluate(model, evaluations=args.size.evaluations, **data).likelihood
        rate = found.facts["evaluations"] / found.seconds
        bare = BARE_CALLS * bare_images_per_second(model.pipeline, batch, BARE_CALLS)
        yield {"batch": batch, "evaluations/s": rate, "bare": bare, "share": rate / bare}


def sharded(args) -> Rows:
    """A short training whose network is sharded beside one whose is not, each by `accelerate launch` on one process."""
    for name, words in {"FSDP2": FSDP2, "plain": []}.items():  # what is less sure to fit into the time first
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "model"
            flags = {
                "dataset_name": args.dataset_name,
                "model_config_name_or_path": args.size.unet,
                "train_batch_size": args.size.batches[0],
                "max_train_steps": args.size.fsdp_steps,
                "logging_steps": args.size.fsdp_steps // 2,
                "save_images_epochs": 0,
                "logger": "none",
                "output_dir": out,
            }
            launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1"]
            launch += ["--mixed_precision", "no", "--dynamo_backend", "no", *words]
            command = [*launch, str(TRAINER), *(f"--{k}={v}" for k, v in flags.items())]
            subprocess.run(command, check=True, stdout=sys.stderr)
            readings = [row for row in read_history(out / HISTORY_FILE) if "images_per_second" in row]
            parameters = hfgen.load(out).parameters
        last = readings[-1]
        yield {
            "by": name,
            "images/s": last["images_per_second"],
            "loss": last["train_loss"],
            "saved parameters": parameters,
        }


def speedrun(args) -> Rows:
    """From nothing to a class-conditional model in a minute."""
    import speedrun as script

    with tempfile.TemporaryDirectory() as work:
        words = ["--dataset_name", args.dataset_name, "--work", work, *args.size.speedrun.split()]
        yield from script.rows(script.parse_args(words))


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a table is called, the seconds that its process may take, and what makes its rows."""

    title: str
    seconds: float
    rows: Callable[[argparse.Namespace], Rows]


# the seconds of all together are less than eight minutes
PARTS = {
    "eager": Part(title="Training, eager", seconds=55, rows=partial(training, mode="eager")),
    "captured": Part(title="Training, captured", seconds=40, rows=partial(training, mode="captured")),
    "speedrun": Part(title="The speedrun", seconds=150, rows=speedrun),
    "sampling": Part(title="Sampling", seconds=80, rows=sampling),
    "likelihood": Part(title="The bound", seconds=25, rows=likelihood),
    "vae": Part(title="Epochs of a VAE", seconds=35, rows=vae_epoch),
    "sharded": Part(title="FSDP2 on one card", seconds=40, rows=sharded),
    "compiled": Part(title="Training, compiled", seconds=45, rows=partial(training, mode="compiled")),
}


def run_part(command: Sequence[str], seconds: float, on_row: Callable[[dict], None]) -> str:
    """Run the process of a part, ended with all that it has begun after `seconds`; returns how it ended, in words.

    They have what a failed one told last, and the line by which steps were not captured after all.
    """
    late, told = threading.Event(), deque[str](maxlen=TOLD_LINES)
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)

        def end() -> None:
            late.set()
            kill_all(process.pid)

        timer = threading.Timer(seconds, end)
        timer.start()
        try:
            for line in process.stdout:
                if line.startswith(MARK):
                    on_row(json.loads(line.removeprefix(MARK)))
                elif line.strip():
                    told.append(line.strip())
            code = process.wait()
        finally:
            timer.cancel()
        if late.is_set():
            return f"out of time after {seconds:.0f} s"
        errors.seek(0)
        told.extend(line.strip() for line in errors if line.strip())
    if code == 0:
        return "; ".join(["done", *(line for line in told if line.startswith("--capture"))])
    return f"failed: {' | '.join(told or [f'status {code}'])[-TOLD_CHARACTERS:]}"


def kill_all(pid: int) -> None:
    """End a process and all below it; torchrun's are of sessions of their own, so that ending a group would leave them."""
    with suppress(psutil.NoSuchProcess):
        top = psutil.Process(pid)
        for process in [*top.children(recursive=True), top]:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def found(parts: dict, name: str, **wanted) -> dict | None:
    """The first row of a part that has these values."""
    rows = parts.get(name, {}).get("rows", [])
    return next((row for row in rows if all(row.get(key) == value for key, value in wanted.items())), None)


def goals(parts: dict) -> list[tuple[str, float, float, bool]]:
    """Of those whose rows there are: in words, what is wanted, what was measured, and whether less is better."""
    loop = {"batch": 64, "precision": "float32", "loop": "hfgen"}
    eager, pil = found(parts, "eager", **loop), found(parts, "eager", **loop | {"loop": "PIL DataLoader"})
    were = "not captured" not in parts.get("captured", {}).get("ended", "")
    fast = (found(parts, "captured", **loop) if were else None) or eager
    drawn = [found(parts, "sampling", batch=64, mode=mode) for mode in ("captured", "eager")]
    run = found(parts, "speedrun")
    told = []
    if eager is not None:
        told.append(("the loop to the bare step, batch 64", 0.95, eager["to the bare step"], False))
    if fast is not None and pil is not None:
        told.append(
            ("the loop to PIL images in a DataLoader, batch 64", 5.0, fast["images/s"] / pil["images/s"], False)
        )
    if None not in drawn:
        told.append(("captured sampling to eager, batch 64", 3.0, drawn[0]["images/s"] / drawn[1]["images/s"], False))
    if run is not None:
        told.append(("the speedrun's Frechet distance", 0.30, run["frechet"], True))
        told.append(("the accuracy of its classifier", 0.990, run["synthetic_accuracy"], False))
    return told


def markdown(result: dict) -> str:
    """All that there is, with what it was made by and on."""
    settings = result["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [
        f"# {result['device']}",
        "",
        f"`python benchmarks/gpu.py` on {settings['dataset_name']}{', in small' if settings['small'] else ''}: {versions}. float32 as "
        "torch has it, where convolutions may take TF32. Medians of rounds; to the bare step, round by round.",
    ]
    told = goals(result["parts"])
    if told:
        rows = [
            {
                "goal": words,
                "wanted": cell(wanted),
                "measured": value,
                "reached": "yes" if (value <= wanted if less else value >= wanted) else "no",
            }
            for words, wanted, value, less in told
        ]
        lines += ["", "## Goals", "", *table(rows)]
    for name, part in result["parts"].items():
        lines += ["", f"## {PARTS[name].title}", ""]
        lines += table(part["rows"]) if part["rows"] else []
        if part["ended"] != "done":
            lines += ["", f"This part: {part['ended']}."]
    return "\n".join(lines) + "\n"


def write(args, result: dict) -> None:
    """Both files as far as the results go."""
    write_json(args.out, result)
    if args.markdown is not None:
        args.markdown.write_text(markdown(result))


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else list(argv)
    args = parse_args(argv)
    if args.part is not None:
        for row in PARTS[args.part].rows(args):
            print(f"\n{MARK}{json.dumps(row)}", flush=True)
        return
    end, parts = time.monotonic() + 60 * args.minutes, {}
    settings = {key: value for key, value in shown_settings(args).items() if key not in ("part", "size")}
    result = {**environment(), "settings": settings, "parts": parts}
    for name in args.parts:
        part = parts[name] = {"ended": "running", "rows": []}
        start, left = time.monotonic(), end - time.monotonic()
        if left < LEAST_SECONDS:
            part["ended"] = "not begun: the time was up"
            write(args, result)
            continue

        def keep(row: dict, part: dict = part) -> None:
            part["rows"].append(row)
            write(args, result)

        command = [sys.executable, __file__, *argv, "--part", name]
        part["ended"] = run_part(command, min(left, args.size.patience * PARTS[name].seconds), keep)
        part["seconds"] = time.monotonic() - start
        write(args, result)
        print(f"{name}: {part['ended']}, {len(part['rows'])} rows, {part['seconds']:.0f} s", flush=True)
    print(markdown(result))


if __name__ == "__main__":
    main()
