"""Diffusion of latents against diffusion of pixels on the same images in one run: images/s, peak memory, Frechet per CPU minute.

Both train for the same CPU time with hfgen's own loop, each in a process of its own, and are measured as `--eval_epochs` measures:

    python benchmarks/latents.py --dataset_name ylecun/mnist --autoencoder runs/autoencoder-mnist --out latents.json
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from itertools import chain, count
from pathlib import Path

import torch
from accelerate import Accelerator
from common import environment, load_images, shown_settings, synchronize, write_json

from hfgen.evaluation.while_training import sample_quality
from hfgen.families.registry import get_family
from hfgen.library import training_config
from hfgen.trainer.loop import Trainer
from hfgen.trainer.progress import Progress

KINDS = ("pixels", "latents")
MIB = 1024


def parse(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--dataset_name", default="digits", help="digits (embedded), repository, or folder in its layout"
    )
    parser.add_argument(
        "--autoencoder", required=True, help="folder or repository, such as train_autoencoder.py leaves"
    )
    parser.add_argument("--pixel_model", help="preset of the UNet of images (default: by their shape)")
    parser.add_argument("--latent_model", help="preset of the UNet of latents (default: by their shape)")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--minutes", type=float, default=10, help="of CPU time of each, sampling left out")
    parser.add_argument("--readings", type=int, default=5, help="Frechet distances of each, at equal times")
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--only", choices=KINDS, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def train(args) -> dict:
    """Train one kind; its readings, images/s of CPU and of wall time, and the peak of the process's memory."""
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    images = load_images(args.dataset_name, accelerator)
    latent = args.only == "latents"
    start = time.process_time()
    config = training_config(
        "ddpm",
        train_batch_size=args.batch_size,
        eval_batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        lr_scheduler="constant_with_warmup",
        lr_warmup_steps=100,
        ema_max_decay=0.999,
        eval_epochs=1,
        max_train_steps=10**9,
        output_dir=tempfile.mkdtemp(),
        logger="none",
        **({"autoencoder": args.autoencoder} if latent else {}),
    )
    family = get_family("ddpm").for_training(config)
    config = family.resolved(config, None)
    data = family.represented(config, images, accelerator.device, show_progress=False)
    encoding = time.process_time() - start
    config = _with_model(config, (args.latent_model if latent else args.pixel_model) or family.preset(data.shape))
    module = family.build(config, family.model_config(config, None), data, None)
    task = family.task(config, module, data)
    trainer = Trainer(accelerator=accelerator, task=task, module=module, images=data, config=config, identity={})
    trainer.progress = Progress(accelerator, config.output_dir, 0, 10**9, args.batch_size)
    trainer.progress.timed = True
    trainer.progress.__enter__()
    quality = sample_quality(config, family, images, accelerator.device)
    return {
        "parameters": sum(p.numel() for p in module.parameters()),
        "rows": list(data.shape),
        "encoding_cpu_seconds": round(encoding, 2) if latent else 0.0,
        **_measured(args, trainer, quality),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // MIB,
    }


def _with_model(config, name: str):
    from dataclasses import replace

    return replace(config, model=replace(config.model, model_config_name_or_path=name))


def _measured(args, trainer: Trainer, quality) -> dict:
    steps = chain.from_iterable(trainer.micro_batches(epoch, 0, trainer.steps_per_epoch) for epoch in count())
    spent, wall, readings = 0.0, 0.0, []
    for reading in range(1, args.readings + 1):
        cpu, clock = time.process_time(), time.perf_counter()
        while spent + time.process_time() - cpu < 60 * args.minutes * reading / args.readings:
            trainer.advance(steps)
        synchronize(trainer.accelerator.device)
        spent, wall = spent + time.process_time() - cpu, wall + time.perf_counter() - clock
        with trainer._averaged():
            found = quality(trainer.task.pipeline(trainer.module))
        readings.append({"cpu_minutes": spent / 60, "steps": trainer.step, **found})
    seen = trainer.step * args.batch_size
    return {"images_per_cpu_second": seen / spent, "images_per_second": seen / wall, "readings": readings}


def main(argv: list[str] | None = None):
    args = parse(argv)
    if args.only:
        print("\n" + json.dumps(train(args)))
        return
    given = sys.argv[1:] if argv is None else [str(word) for word in argv]
    result = {"settings": shown_settings(args), **environment(), "kinds": {}}
    for kind in KINDS:
        command = [sys.executable, __file__, *given, "--only", kind]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = result["kinds"][kind] = json.loads(done.stdout.strip().split("\n")[-1])
        last = found["readings"][-1]
        print(
            f"{kind}: {found['images_per_cpu_second']:.0f} images per CPU second, peak {found['peak_mib']} MiB, after "
            f"{last['cpu_minutes']:.1f} CPU minutes {', '.join(f'{k} {last[k]:.3f}' for k in ('frechet', 'kid') if k in last)}"
        )
    if args.out:
        write_json(args.out, result)


if __name__ == "__main__":
    main()
