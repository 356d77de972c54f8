"""Images/s of hfgen's training loop, of the bare model step, and of a loop that decodes PIL images in a DataLoader.

One UNet, dataset, batch size and optimizer; the three are timed in turn, several rounds in one run, so that their ratios
hold on a noisy machine: `python benchmarks/train_throughput.py --dataset_name ylecun/mnist --out throughput.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import accelerate
import diffusers
import numpy as np
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel

from hfgen.data.decode import ImageReader, undecoded
from hfgen.data.images import load_images, to_model_range
from hfgen.data.sources import find_image_column, load_source
from hfgen.models import build_unet, load_unet_config
from hfgen.objectives import SimpleLoss
from hfgen.schedulers import LinearDDPMScheduler
from hfgen.trainer.config import OptimizationArguments, RunArguments
from hfgen.trainer.ddpm import DDPMTask
from hfgen.trainer.loop import Trainer
from hfgen.trainer.progress import Progress

LOOPS = ("hfgen", "bare step", "PIL DataLoader")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset_name", default="digits")
    parser.add_argument("--model", default=None, help="preset of the UNet (default: the dataset's)")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps per loop and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0, help="workers of the PIL loop's DataLoader")
    parser.add_argument("--mixed_precision", choices=["no", "bf16"], default="no")
    parser.add_argument("--compile", action="store_true", help="torch.compile all three")
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--memory_of", choices=LOOPS, help=argparse.SUPPRESS)
    return parser.parse_args()


class OurLoop:
    """hfgen's `Trainer`: batches by permutation, noise, clipping, AdamW, schedule, EMA, progress bar and history."""

    def __init__(self, accelerator, images, unet, args, dataset, column):
        output_dir = Path(tempfile.mkdtemp())
        run = RunArguments(output_dir=str(output_dir), logger="none")
        task = DDPMTask(LinearDDPMScheduler(), 1000, args.batch_size, 0)
        shape = tuple(images.images.shape[1:])
        optimization = optimization_arguments(args)
        self.trainer = Trainer(accelerator, task, unet, images, images, shape, False, optimization, run, {})
        self.trainer.progress = Progress(accelerator, output_dir, 0, optimization.max_train_steps, args.batch_size)
        self.trainer.progress.__enter__()
        self.steps, self.device = args.steps, accelerator.device

    def __call__(self):
        trainer = self.trainer
        first = trainer.step % (trainer.steps_per_epoch - self.steps)
        images = trainer.train.batches(trainer.micro_batches(trainer.step, first, first + self.steps))
        for _ in range(self.steps):
            trainer.advance(images)
        synchronize(self.device)


class BareStep:
    """Forward, backward, clipping, AdamW and EMA on one batch that is on the device; nothing else."""

    def __init__(self, accelerator, images, unet, args, dataset, column):
        self.model, self.steps = unet.to(accelerator.device, memory_format=torch.channels_last), args.steps
        self.forward = torch.compile(self.model) if args.compile else self.model
        self.optimizer = make_optimizer(self.model)
        self.ema = EMAModel(self.model.parameters(), use_ema_warmup=True, foreach=True)
        self.x_0 = to_model_range(images.images[: args.batch_size]).contiguous(memory_format=torch.channels_last)
        self.noise, self.uniform = torch.randn_like(self.x_0), torch.rand(args.batch_size, device=accelerator.device)
        self.loss, self.autocast = SimpleLoss(LinearDDPMScheduler()), accelerator.autocast
        self.device = accelerator.device

    def step(self, x_0, noise, uniform):
        with self.autocast():
            loss = self.loss(self.forward, x_0, noise, uniform).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step(self.model.parameters())
        return loss

    def __call__(self):
        for _ in range(self.steps):
            self.step(self.x_0, self.noise, self.uniform)
        synchronize(self.device)


class PilLoop(BareStep):
    """The same step fed as diffusers' example is: PIL images decoded and transformed one by one in a DataLoader, the
    noise and times from the global generator, the loss read by the host at every step."""

    def __init__(self, accelerator, images, unet, args, dataset, column):
        super().__init__(accelerator, images, unet, args, dataset, column)
        resolution = images.images.shape[-1]

        def transform(rows):
            pictures = [image.convert("L" if images.images.shape[1] == 1 else "RGB") for image in rows[column]]
            arrays = [np.asarray(picture.resize((resolution, resolution))) for picture in pictures]
            pixels = [torch.from_numpy(a.copy()).reshape(resolution, resolution, -1).permute(2, 0, 1) for a in arrays]
            return {"input": [(p.float() / 255 - 0.5) / 0.5 for p in pixels]}

        self.loader = torch.utils.data.DataLoader(
            dataset.with_transform(transform),
            args.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=args.workers,
            persistent_workers=args.workers > 0,
        )
        self.batches = self._endless()

    def _endless(self):
        while True:
            yield from self.loader

    def __call__(self):
        for _ in range(self.steps):
            x_0 = next(self.batches)["input"].to(self.device).contiguous(memory_format=torch.channels_last)
            noise = torch.randn_like(x_0)
            self.step(x_0, noise, torch.rand(len(x_0), device=self.device)).item()


def optimization_arguments(args):
    return OptimizationArguments(
        train_batch_size=args.batch_size,
        lr_scheduler="constant",
        lr_warmup_steps=0,
        compile=args.compile,
        mixed_precision=args.mixed_precision,
        max_train_steps=10**9,
    )


def make_optimizer(model):
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    return torch.optim.AdamW(model.parameters(), 1e-4, (0.95, 0.999), 1e-8, 1e-6, fused=fused)


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory_mib() -> float:
    """Of the GPU when there is one, else of this process (a child's ru_maxrss starts at its parent's: not used)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    if not status.is_file():
        return float("nan")
    return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024


def make_loop(name: str, args):
    accelerator = Accelerator(mixed_precision=args.mixed_precision, step_scheduler_with_optimizer=False)
    dataset = load_source(args.dataset_name)["train"]
    column = find_image_column(dataset, None)
    size = min(dataset[0][column].size)
    reader = ImageReader(undecoded(dataset, column), column, 1 if dataset[0][column].mode == "L" else 3, size, True, 0)
    images = load_images(reader, accelerator.device, show_progress=False)
    torch.manual_seed(0)
    unet = build_unet(load_unet_config(args.model), reader.resolution, reader.channels, 1000)
    kinds = dict(zip(LOOPS, (OurLoop, BareStep, PilLoop), strict=True))
    return kinds[name](accelerator, images, unet, args, dataset, column)


def time_in_turn(args) -> dict[str, list[float]]:
    """Images/s of each loop in each round; a first call of each, not counted, warms it up."""
    loops = {name: make_loop(name, args) for name in LOOPS}
    rates = {name: [] for name in LOOPS}
    for loop in loops.values():
        loop()
    for _ in range(args.rounds):
        for name, loop in loops.items():
            start = time.perf_counter()
            loop()
            rates[name].append(args.steps * args.batch_size / (time.perf_counter() - start))
    return rates


def peak_memory_in_own_process(name: str) -> float:
    command = [sys.executable, *sys.argv, "--rounds", "1", "--memory_of", name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.strip().splitlines()[-1])


def report(args) -> dict:
    rates = time_in_turn(args)
    bare = rates["bare step"]
    rows = {
        name: {
            "images_per_second": statistics.median(values),
            "ratio_to_bare_step": statistics.median(v / b for v, b in zip(values, bare, strict=True)),
            "rounds": values,
            "peak_memory_mib": peak_memory_in_own_process(name),
        }
        for name, values in rates.items()
    }
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    versions = {m.__name__: m.__version__ for m in (torch, diffusers, accelerate)} | {
        "python": platform.python_version()
    }
    settings = {k: v for k, v in vars(args).items() if k not in ("out", "memory_of", "dataset_name")}
    return {"device": device, "versions": versions, "settings": settings, "loops": rows}


def main():
    args = parse()
    args.model = args.model or ("digits" if args.dataset_name == "digits" else "mnist")
    if args.memory_of:
        loop = make_loop(args.memory_of, args)
        loop()
        print(peak_memory_mib())
        return
    result = report(args)
    print(f"{'loop':<16}{'images/s':>10}{'to bare':>9}{'peak MiB':>10}   on {result['device']}")
    for name, row in result["loops"].items():
        print(
            f"{name:<16}{row['images_per_second']:>10.0f}{row['ratio_to_bare_step']:>9.3f}{row['peak_memory_mib']:>10.0f}"
        )
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
