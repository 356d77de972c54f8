"""Images per second and memory of a training's data alone: in memory, decoded by row, and streamed from shards.

    python benchmarks/streaming.py --out streaming.json --markdown streaming.md

writes 100,000 synthetic JPEG pictures of 32x32 as Parquet shards and as WebDataset tar shards, and reads them in batches as a training
does, each way in a process of its own. Memory is the proportional set size (PSS) of the process and of its workers; its slope per 1,000
images is fitted to what comes after the first third. Work on other things at the same time changes images/s, and hardly those per second
of CPU time.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import torch
from accelerate import Accelerator
from common import environment, shown_settings, table, write_json
from datasets import Dataset, Features, Image, disable_progress_bars
from load import summary
from PIL import Image as Pillow

import hfgen.data.loading as loading
from hfgen.configs.training import DataConfig
from hfgen.core.random import epoch_order
from hfgen.data.training_set import TrainingSet, load_training_set

WAYS = {"memory": "in memory", "rows": "decoded by row", "parquet": "stream of Parquet", "tar": "stream of tar"}
MEBIBYTE = 2**20
HELD_OUT = 500
PLACES = 60


def parse(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--shards", type=int, default=50)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--markdown", type=Path, help="the table, as Markdown")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def pictures(count: int, side: int) -> Iterator[bytes]:
    """Smooth colours with noise, as JPEG."""
    generator = np.random.default_rng(0)
    for _ in range(count):
        small = Pillow.fromarray(generator.integers(0, 256, (4, 4, 3), np.uint8)).resize((side, side))
        noisy = np.clip(np.asarray(small, np.int16) + generator.integers(-16, 17, (side, side, 3)), 0, 255)
        file = io.BytesIO()
        Pillow.fromarray(noisy.astype(np.uint8)).save(file, "JPEG", quality=90)
        yield file.getvalue()


def write_shards(folder: Path, args) -> None:
    """The same pictures twice, in shards of equal size."""
    disable_progress_bars()
    for kind in ("parquet", "tar"):
        (folder / kind).mkdir()
    source, each = pictures(args.images, args.side), -(-args.images // args.shards)
    for shard in range(args.shards):
        taken = list(islice(source, each))
        rows = Dataset.from_dict({"image": [{"bytes": x, "path": None} for x in taken]}, Features({"image": Image()}))
        rows.to_parquet(folder / "parquet" / f"train-{shard:05}-of-{args.shards:05}.parquet")
        with tarfile.open(folder / "tar" / f"train-{shard:05}.tar", "w") as tar:
            for i, data in enumerate(taken):
                member = tarfile.TarInfo(f"{shard:05}_{i:06}.jpg")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def family() -> list[psutil.Process]:
    own = psutil.Process()
    return [own, *own.children(recursive=True)]


def memory() -> float:
    """Proportional set size of this process and its workers, MiB; of those that end meanwhile nothing."""
    total = 0
    for process in family():
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total / MEBIBYTE


def cpu_seconds() -> float:
    total = 0.0
    for process in family():
        try:
            times = process.cpu_times()
            total += times.user + times.system
        except psutil.Error:
            continue
    return total


def batches(images: TrainingSet, args) -> Iterator[torch.Tensor]:
    """One epoch's worth of uint8 images as the training loop takes them."""
    steps = args.images // args.batch_size
    if images.stream is not None:
        share = images.stream.share(rows=args.batch_size, num_processes=1, process_index=0)
        yield from (raw for _, raw, _ in share.micro_batches(steps, args.batch_size))
        share.close()
        return
    rows = images.train
    order = epoch_order(0, 0, len(rows)).split(args.batch_size)
    yield from rows.batches(order[:steps])


def load(way: str, args) -> TrainingSet:
    data = DataConfig(
        dataset_name=str(args.folder / ("tar" if way == "tar" else "parquet")),
        cache_dir=str(args.folder / "cache"),
        streaming=way in ("parquet", "tar"),
        max_validation_samples=HELD_OUT if way in ("parquet", "tar") else None,
    )
    if way == "rows":
        loading.MEMORY_SHARE = 0.0
    return load_training_set(data, channels=3, resolution=args.side, seed=0, accelerator=Accelerator(cpu=True))


def measure(way: str, args) -> dict:
    """Time, CPU time and memory are read at 60 places of the images that follow the first batch."""
    before = time.perf_counter()
    images = load(way, args)
    source = batches(images, args)
    count = len(next(source))
    first = time.perf_counter() - before
    places, read = [count], [(time.perf_counter(), cpu_seconds(), memory())]
    every = max(1, args.images // args.batch_size // PLACES)
    for number, batch in enumerate(source, 1):
        count += len(batch)
        if number % every == 0:
            places.append(count)
            read.append((time.perf_counter(), cpu_seconds(), memory()))
    seconds, cpu, mebibytes = np.array(read).T
    taken = places[-1] - places[0]
    return {
        "way": way,
        "seconds_to_first": first,
        "images_per_second": taken / (seconds[-1] - seconds[0]),
        "images_per_cpu_second": taken / (cpu[-1] - cpu[0]),
        "memory": summary(np.array(places), mebibytes, count),
    }


def report(args) -> Iterator[dict]:
    """Every way in a process of its own; what has been measured so far after each."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder), args)
        for way in args.ways:
            command = [sys.executable, __file__, "--way", way, "--folder", folder]
            for name in ("images", "shards", "side", "batch_size"):
                command += [f"--{name}", str(getattr(args, name))]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            yield {**environment(), "settings": shown_settings(args), "rows": rows}


def shown(rows: list[dict]) -> list[str]:
    return table(
        [
            {
                "images": WAYS[row["way"]],
                "s to the first batch": row["seconds_to_first"],
                "images/s": row["images_per_second"],
                "per CPU second": row["images_per_cpu_second"],
                "MiB at first": row["memory"]["first_mib"],
                "at most": row["memory"]["highest_mib"],
                "growth per 1,000 images, MiB": row["memory"]["mib_per_1000"],
                "": "flat" if row["memory"]["flat"] else "not flat",
            }
            for row in rows
        ]
    )


def main(argv: list[str] | None = None):
    args = parse(argv)
    if args.way:
        print(json.dumps(measure(args.way, args)))
        return
    for result in report(args):
        lines = shown(result["rows"])
        print(*(lines if len(lines) == 3 else lines[-1:]), sep="\n", flush=True)
        if args.out:
            write_json(args.out, result)
        if args.markdown:
            args.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
