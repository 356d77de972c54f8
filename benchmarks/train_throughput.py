"""Images/s of hfgen's training loop, of the bare model step, and of a loop that decodes PIL images in a DataLoader.

One model, dataset, batch size and optimizer; the three are timed in turn, several rounds in one run, so that their ratios
hold on a noisy machine:

    python benchmarks/train_throughput.py --dataset_name ylecun/mnist --out throughput.json
    python benchmarks/train_throughput.py --dataset_name ylecun/mnist --model mnist-50d --epoch --out throughput-vae.json
"""

from __future__ import annotations

import argparse
import operator
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import chain, count
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import convert_outputs_to_fp32
from common import environment, load_images, shown_settings, synchronize, write_json
from diffusers.training_utils import EMAModel

from hfgen.core.media import to_model_range
from hfgen.data.sources import find_image_column, load_source
from hfgen.data.training_set import TrainingSet
from hfgen.families.registry import get_family
from hfgen.library import training_config
from hfgen.models import UNET_PRESETS, VAE_PRESETS
from hfgen.trainer.capture import WARM_UP_STEPS as WARM_UP_OF_CAPTURE
from hfgen.trainer.capture import CudaGraphs
from hfgen.trainer.loop import Trainer
from hfgen.trainer.progress import Progress

LOOPS = ("hfgen", "bare step", "PIL DataLoader")
WARM_UP_STEPS = 20


def parse(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--dataset_name", default="digits", help="digits (embedded), repository, or folder in its layout"
    )
    parser.add_argument("--model", default=None, help="preset of the UNet or VAE (default: the dataset's)")
    parser.add_argument("--kind", choices=list(KINDS), help="default: vae for a preset that only VAEs have, else ddpm")
    parser.add_argument("--batch_size", type=int, help="default: 64 for a DDPM, 128 for a VAE")
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps per loop and round")
    parser.add_argument("--epoch", action="store_true", help="a whole epoch per loop and round, instead of --steps")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--loops", nargs="+", choices=LOOPS, default=list(LOOPS), help="(default: all)")
    parser.add_argument("--workers", type=int, default=0, help="workers of the PIL loop's DataLoader")
    parser.add_argument("--mixed_precision", choices=["no", "bf16"], default="no")
    parser.add_argument("--compile", action="store_true", help="torch.compile all three")
    parser.add_argument("--capture", action="store_true", help="on a GPU, each step of the first two as one CUDA graph")
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--memory_of", choices=LOOPS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    only_vae = args.model in VAE_PRESETS and args.model not in UNET_PRESETS
    args.kind = args.kind or ("vae" if only_vae else "ddpm")
    args.model = args.model or ("digits" if args.dataset_name == "digits" else KINDS[args.kind].mnist_preset)
    args.batch_size = args.batch_size or KINDS[args.kind].batch_size
    return args


class Kind:
    """A model and its task, as the trainer makes them."""

    mnist_preset: str
    batch_size: int
    flags: ClassVar[dict] = {}

    def __init__(self, args, images):
        family = get_family(args.kind)
        config = training_config(
            args.kind,
            model_config_name_or_path=args.model,
            train_batch_size=args.batch_size,
            eval_batch_size=args.batch_size,
            lr_scheduler="constant",
            lr_warmup_steps=0,
            compile=args.compile,
            capture=args.capture,
            mixed_precision=args.mixed_precision,
            max_train_steps=10**9,
            output_dir=tempfile.mkdtemp(),
            logger="none",
            **self.flags,
        )
        self.config = family.resolved(config, None)
        self.model = family.build(self.config, family.model_config(self.config, None), images, None)
        self.task = family.task(self.config, self.model, images)


class DDPM(Kind):
    """A UNet and L_simple."""

    mnist_preset, batch_size = "mnist", 64
    flags: ClassVar = {"prediction_type": "epsilon", "ddpm_beta_schedule": "linear"}

    def draw(self, x_0):
        """What `loss` takes: the images and, from the global generator, their noise and times."""
        return x_0, torch.randn_like(x_0), torch.rand(len(x_0), device=x_0.device)

    def loss(self, forward, x_0, noise, uniform):
        objective, (timesteps, _) = self.task.objective, self.task.times.sample(uniform, uniform)
        output = forward(objective.add_noise(x_0, noise, timesteps), timesteps, return_dict=False)[0].float()
        return objective(output, x_0, noise, timesteps).mean()


class VAE(Kind):
    """A VAE and its default objective, SGVB B with one latent sample."""

    mnist_preset, batch_size = "mnist-50d", 128

    def draw(self, x_0):
        """What `loss` takes: from the global generator, the images, binarised if the likelihood asks for it, and noise."""
        if self.model.likelihood.binarization is not None:
            x_0 = torch.where(2 * torch.rand_like(x_0) < x_0 + 1, 1.0, -1.0)
        return x_0, torch.randn(1, len(x_0), self.model.config.latent_size, device=x_0.device)

    def loss(self, forward, x, latent_noise):
        return self.task.objective(forward, x, latent_noise)["loss"].mean()


KINDS = {"ddpm": DDPM, "vae": VAE}


class OurLoop:
    """hfgen's `Trainer`: batches by permutation, noise, clipping, AdamW, schedule, EMA, progress bar and history."""

    def __init__(self, accelerator, images, kind, args):
        config = kind.config
        self.trainer = Trainer(
            accelerator=accelerator, task=kind.task, module=kind.model, images=images, config=config, identity={}
        )
        steps = config.optimization.max_train_steps
        self.trainer.progress = Progress(accelerator, config.output_dir, 0, steps, args.batch_size)
        self.trainer.progress.timed = True  # nobody waits for the end of so many steps
        self.trainer.progress.__enter__()
        self.batches, self.device = self._endless(), accelerator.device

    def _endless(self):
        trainer = self.trainer
        return chain.from_iterable(trainer.micro_batches(epoch, 0, trainer.steps_per_epoch) for epoch in count())

    def __call__(self, steps):
        for _ in range(steps):
            self.trainer.advance(self.batches)
        synchronize(self.device)


class BareStep:
    """Forward, backward, clipping, AdamW and EMA on one batch that is on the device, with its noise; nothing else."""

    def __init__(self, accelerator, images, kind, args):
        self.kind, self.device = kind, accelerator.device
        kind.task.to(self.device)
        self.model = kind.model.to(accelerator.device, memory_format=torch.channels_last)
        self.forward = torch.compile(self.model) if args.compile else self.model
        if args.mixed_precision != "no":  # as Accelerate prepares a model: the network alone, with float32 outputs
            self.forward = convert_outputs_to_fp32(accelerator.autocast()(self.forward))
        self.optimizer = make_optimizer(self.model, capturable=args.capture and self.device.type == "cuda")
        self.ema = EMAModel(self.model.parameters(), use_ema_warmup=True, foreach=True)
        x_0 = to_model_range(images.train.images[: args.batch_size]).contiguous(memory_format=torch.channels_last)
        self.batch = kind.draw(x_0)
        self.take_step = self._recorded() if args.capture and self.device.type == "cuda" else self._once

    def _once(self):
        self.step(self.batch)

    def _recorded(self):
        """The step on the batch as the trainer records its own, but that the moving average's decay stands still."""
        graphs = CudaGraphs()
        for _ in range(WARM_UP_OF_CAPTURE):
            graphs.warm_up(self._once)
        return graphs.record(self._once)

    def step(self, batch):
        loss = self.kind.loss(self.forward, *batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step(self.model.parameters())
        return loss

    def __call__(self, steps):
        for _ in range(steps):
            self.take_step()
        synchronize(self.device)


class PilLoop(BareStep):
    """The same step fed as diffusers' example is: PIL images decoded and transformed one by one in a DataLoader, the
    noise, times and black and white pixels from the global generator, the loss read by the host at every step."""

    def __init__(self, accelerator, images, kind, args):
        super().__init__(accelerator, images, kind, args)
        resolution, mode = images.resolution, "L" if images.channels == 1 else "RGB"
        dataset = load_source(args.dataset_name)["train"]
        column = find_image_column(dataset, None)

        def transform(rows):
            pictures = [image.convert(mode) for image in rows[column]]
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

    def __call__(self, steps):
        for _ in range(steps):
            x_0 = next(self.batches)["input"].to(self.device).contiguous(memory_format=torch.channels_last)
            self.step(self.kind.draw(x_0)).item()


def make_optimizer(model, capturable: bool):
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    betas, eps, decay = (0.95, 0.999), 1e-8, 1e-6
    return torch.optim.AdamW(model.parameters(), 1e-4, betas, eps, decay, fused=fused, capturable=capturable)


def peak_memory_mib() -> float:
    """Of the GPU when there is one, else of this process (a child's ru_maxrss starts at its parent's: not used)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    if not status.is_file():
        return float("nan")
    return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024


def make_loop(name: str, args, images: TrainingSet | None = None):
    """A loop, called with a number of steps, and the steps of an epoch; `images` where they are loaded already."""
    accelerator = Accelerator(mixed_precision=args.mixed_precision, step_scheduler_with_optimizer=False)
    images = images or load_images(args.dataset_name, accelerator)
    torch.manual_seed(0)
    kind = KINDS[args.kind](args, images)
    loop = dict(zip(LOOPS, (OurLoop, BareStep, PilLoop), strict=True))[name](accelerator, images, kind, args)
    return loop, len(images.train) // args.batch_size


def time_in_turn(args, images: TrainingSet | None = None) -> tuple[dict[str, list[float]], int]:
    """Images/s of each loop in each round, and the steps of a round; a first call of each, not counted, warms it up."""
    loops, rates = {}, {name: [] for name in args.loops}
    for name in args.loops:
        loops[name], epoch = make_loop(name, args, images)
    steps = epoch if args.epoch else args.steps
    for loop in loops.values():
        loop(min(steps, WARM_UP_STEPS))
    for _ in range(args.rounds):
        for name, loop in loops.items():
            start = time.perf_counter()
            loop(steps)
            rates[name].append(steps * args.batch_size / (time.perf_counter() - start))
    return rates, steps


def peak_memory_in_own_process(name: str) -> float:
    command = [sys.executable, *sys.argv, "--memory_of", name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.strip().splitlines()[-1])


def medians(rates: dict[str, list[float]]) -> dict[str, dict]:
    """Of each loop's rounds; to the bare step, where it was timed, round by round."""
    bare = rates.get("bare step")
    return {
        name: {
            "images_per_second": statistics.median(values),
            **({} if bare is None else {"ratio_to_bare_step": statistics.median(map(operator.truediv, values, bare))}),
            "rounds": values,
        }
        for name, values in rates.items()
    }


def report(args) -> dict:
    rates, steps = time_in_turn(args)
    rows = {name: row | {"peak_memory_mib": peak_memory_in_own_process(name)} for name, row in medians(rates).items()}
    settings = {k: v for k, v in shown_settings(args).items() if k != "memory_of"} | {"steps": steps}
    return {**environment(), "settings": settings, "loops": rows}


def main(argv: list[str] | None = None):
    args = parse(argv)
    if args.memory_of:
        make_loop(args.memory_of, args)[0](WARM_UP_STEPS)
        print(peak_memory_mib())
        return
    result = report(args)
    print(f"{'loop':<16}{'images/s':>10}{'to bare':>9}{'peak MiB':>10}   on {result['device']}")
    for name, row in result["loops"].items():
        ratio = row.get("ratio_to_bare_step", float("nan"))
        print(f"{name:<16}{row['images_per_second']:>10.0f}{ratio:>9.3f}{row['peak_memory_mib']:>10.0f}")
    if args.out:
        write_json(args.out, result)


if __name__ == "__main__":
    main()
