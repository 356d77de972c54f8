"""Memory of a process over a long training, many samples and many evaluated images: whether it is flat.

    python benchmarks/load.py --out load.json

trains a tiny model on the embedded digits for 2,000 optimizer steps with checkpoints, held-out losses and sample grids, draws
5,000 samples of it, and evaluates 10,000 images. The resident memory (RSS) is read along the way; the slope per 1,000
is fitted to what comes after the first third, in which libraries load and caches fill.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from common import environment, shown_settings, write_json

from hfgen.library import evaluate, load, sample, train

PARTS = {"steps": "training", "samples": "sampling", "images": "evaluation"}
TINY_UNET = {
    "block_out_channels": [8, 8],
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "add_attention": False,
}
READINGS = 60
READ_SECONDS = 0.05
WARM_UP = 1 / 3
# growth over a whole part that counts as none, as a share of what the process has
FLAT_SHARE = 0.03
EVALUATED_AT_ONCE = 500
LEAST_EVALUATIONS = 100
MEBIBYTE = 2**20


def parse(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset_name", default="digits")
    parser.add_argument("--model", help="preset or config of the UNet (default: one of 17 thousand parameters)")
    parser.add_argument("--steps", type=int, default=2000, help="optimizer steps")
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--images", type=int, default=10_000, help="images whose likelihood is bounded")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--out", type=Path, help="JSON file")
    return parser.parse_args(argv)


@dataclass
class Memory:
    """Readings of the resident memory in MiB, as fast as time goes by; what is done at once in between is done evenly."""

    readings: list[float] = field(default_factory=list)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Read from a thread until the block ends."""
        process, done = psutil.Process(), threading.Event()

        def read() -> None:
            while True:
                self.readings.append(process.memory_info().rss / MEBIBYTE)
                if done.wait(READ_SECONDS):
                    return

        gc.collect()
        thread = threading.Thread(target=read)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def curve(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """How many of `count` were done, and the mean memory then, at 60 places at most."""
        parts = np.array_split(np.array(self.readings), min(READINGS, len(self.readings)))
        return count * (np.arange(len(parts)) + 0.5) / len(parts), np.array([part.mean() for part in parts])


def summary(done: np.ndarray, memory: np.ndarray, count: int) -> dict:
    """The slope per 1,000 after the warm-up, and whether it is flat: by it a part would grow by less than 3 %."""
    later = done > WARM_UP * count
    slope = float(np.polyfit(done[later], memory[later], 1)[0]) if later.sum() > 1 else 0.0
    return {
        "count": count,
        "first_mib": float(memory[0]),
        "last_mib": float(memory[-1]),
        "highest_mib": float(memory.max()),
        "mib_per_1000": 1000 * slope,
        "flat": bool(abs(slope) * count < FLAT_SHARE * memory[-1]),
        "curve": [[float(x), round(float(y), 1)] for x, y in zip(done, memory, strict=True)],
    }


def run_training(args, folder: Path) -> None:
    model = args.model
    if model is None:
        model = folder / "unet.json"
        model.write_text(json.dumps(TINY_UNET))
    train(
        "ddpm",
        dataset_name=args.dataset_name,
        model_config_name_or_path=str(model),
        train_batch_size=args.batch_size,
        eval_batch_size=64,
        max_train_steps=args.steps,
        ddpm_num_inference_steps=2,
        checkpointing_steps=max(1, args.steps // 10),
        checkpoints_total_limit=2,
        save_images_epochs=1,
        save_model_epochs=1,
        logger="none",
        output_dir=str(folder / "out"),
    )


def run_sampling(args, folder: Path) -> None:
    sample(load(folder / "out", device="cpu"), num_images=args.samples, batch_size=64, steps=2)


def run_evaluation(args, folder: Path) -> None:
    """In parts, as the dataset may have fewer images than are to be evaluated."""
    model, left = load(folder / "out", device="cpu"), args.images
    while left:
        at_once = min(left, EVALUATED_AT_ONCE)
        evaluations = max(LEAST_EVALUATIONS, at_once)
        evaluate(model, dataset_name=args.dataset_name, split="train", max_images=at_once, evaluations=evaluations)
        left -= at_once


RUNS = {"steps": run_training, "samples": run_sampling, "images": run_evaluation}


def report(args) -> dict:
    parts = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, run in RUNS.items():
            memory = Memory()
            with memory.watched():
                run(args, Path(folder))
            count = getattr(args, name)
            parts[PARTS[name]] = summary(*memory.curve(count), count)
    return {**environment(), "settings": shown_settings(args), "parts": parts}


def main(argv: list[str] | None = None):
    args = parse(argv)
    result = report(args)
    print(f"{'part':<12}{'count':>8}{'first':>9}{'last':>9}{'highest':>9}{'per 1,000':>11}   MiB on {result['device']}")
    for name, part in result["parts"].items():
        values = "".join(f"{part[f'{key}_mib']:>9.1f}" for key in ("first", "last", "highest"))
        told = "flat" if part["flat"] else "NOT FLAT"
        print(f"{name:<12}{part['count']:>8,}{values}{part['mib_per_1000']:>+11.2f}   {told}")
    if args.out:
        write_json(args.out, result)


if __name__ == "__main__":
    main()
