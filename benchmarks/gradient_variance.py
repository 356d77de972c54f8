"""Variance of the gradient of a VAE's encoder under the score function and the SGVB estimators, at equal cost.

For one minibatch, which stays the same, the latent noise is drawn many times, with L samples for each image whatever the
estimator, so that all evaluate the decoder equally often. All four have the same expectation, which is checked:

    python benchmarks/gradient_variance.py --dataset_name ylecun/mnist --out variance.json --plot variance.png
    python benchmarks/gradient_variance.py --dataset_name ylecun/mnist --pipeline runs/vae-mnist-2d --plot variance.png
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from common import environment, load_images, shown_settings, synchronize, write_json

from hfgen.core.binarize import binarize
from hfgen.core.media import to_model_range
from hfgen.core.plotting import new_figure, save_figure
from hfgen.core.random import Stream, seeded
from hfgen.library import load
from hfgen.models import build_vae, load_vae_config
from hfgen.objectives import SGVBA, SGVBB, ScoreFunction

ESTIMATORS = {
    "score function": lambda likelihood: ScoreFunction(likelihood, baseline=False),
    "score function, baseline": ScoreFunction,
    "SGVB A": SGVBA,
    "SGVB B": SGVBB,
}
REFERENCE = "SGVB B"
LEARNING_RATE = 2e-3


def parse(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--dataset_name", default="digits", help="digits (embedded), repository, or folder in its layout"
    )
    parser.add_argument("--pipeline", help="folder or repository of a trained VAE, instead of training --model here")
    parser.add_argument("--model", help="preset or config of the VAE (default: digits or mnist-2d, by the dataset)")
    parser.add_argument(
        "--steps", type=int, default=1000, help="optimizer steps of SGVB B before the second measurement"
    )
    parser.add_argument("--batch_size", type=int, default=128, help="images of the minibatch, and of a training step")
    parser.add_argument("--samples", type=int, nargs="+", default=[1, 4, 16], help="values of L, samples per image")
    parser.add_argument("--draws", type=int, default=200, help="gradients per estimator and L, 2 or more")
    parser.add_argument("--seed", type=int, default=0, help="decides weights, minibatch and noise; 0 or more")
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--plot", type=Path, help="PNG file")
    args = parser.parse_args(argv)
    if args.draws < 2:
        parser.error(f"--draws {args.draws}: a variance needs 2 or more")
    if args.pipeline is None:
        args.model = args.model or ("digits" if args.dataset_name == "digits" else "mnist-2d")
    return args


class Moments:
    """Mean and variance of vectors that come one at a time, in float64.

    The n-th vector adds (x - mean of those before) * (x - mean with it) to the sum of squared deviations. For each n > 1
    the sum of its components has the total variance as its expectation, so their spread gives the standard error.

    Source: Welford 1962.
    """

    def __init__(self):
        self.mean, self.squares, self.contributions = 0.0, 0.0, []

    def add(self, vector: torch.Tensor):
        before = vector.double() - self.mean
        self.contributions.append(0.0)
        self.mean = self.mean + before / len(self.contributions)
        products = before * (vector - self.mean)
        self.squares = self.squares + products
        self.contributions[-1] = products.sum().item()

    @property
    def variance_of_mean(self) -> torch.Tensor:
        """For each component."""
        count = len(self.contributions)
        return self.squares / (count - 1) / count

    def total_variance(self) -> tuple[float, float]:
        """The trace of the covariance, with its standard error."""
        contributions = self.contributions[1:]
        spread = statistics.stdev(contributions) if len(contributions) > 1 else math.nan
        return statistics.fmean(contributions), spread / math.sqrt(len(contributions))

    def signal(self) -> float:
        """The squared norm of the expectation, without the part of the mean's that is noise."""
        return (self.mean.square().sum() - self.variance_of_mean.sum()).item()


@dataclass(frozen=True)
class Bench:
    """A model, the images that it takes, and the device that both are on."""

    model: torch.nn.Module
    images: torch.Tensor
    seed: int

    def inputs(self, rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Images (B, C, H, W) in [-1, 1], binarised once if the likelihood asks for it."""
        x = to_model_range(self.images[rows.to(self.images.device)])
        uniform = torch.rand(len(x), x[0].numel(), generator=generator, device=x.device)
        return binarize(self.model.likelihood.binarization, x, uniform, rows, (self.seed, Stream.TRAINING_NOISE))

    def latent_noise(self, num_samples: int, batch_size: int, generator: torch.Generator) -> torch.Tensor:
        shape = num_samples, batch_size, self.model.config.latent_size
        return torch.randn(shape, generator=generator, device=self.images.device)

    def train(self, steps: int, batch_size: int):
        """SGVB B with one sample, AdamW, constant learning rate."""
        optimizer = torch.optim.AdamW(self.model.parameters(), LEARNING_RATE, weight_decay=0.0)
        objective = SGVBB(self.model.likelihood)
        generator = seeded(self.images.device, self.seed, Stream.TRAINING_NOISE)
        for _ in range(steps):
            rows = torch.randint(len(self.images), (batch_size,), generator=generator, device=self.images.device)
            x, noise = self.inputs(rows.cpu(), generator), self.latent_noise(1, batch_size, generator)
            objective(self.model, x, noise)["loss"].mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    def gradient(self, objective, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Of the mean loss by the encoder's parameters; the decoder's is taken too, as a training step does."""
        self.model.zero_grad()
        objective(self.model, x, noise)["loss"].mean().backward()
        return torch.cat([p.grad.flatten() for p in self.model.encoder.parameters()])

    def moments(self, objective, x, num_samples: int, draws: int, generator) -> tuple[Moments, float]:
        """Of the gradient over draws of the latent noise, and the median seconds of one."""
        moments, seconds = Moments(), []
        for _ in range(draws):
            noise = self.latent_noise(num_samples, len(x), generator)
            start = time.perf_counter()
            gradient = self.gradient(objective, x, noise)
            synchronize(x.device)
            seconds.append(time.perf_counter() - start)
            moments.add(gradient)
        return moments, statistics.median(seconds)

    def measure(self, batch_size: int, samples: list[int], draws: int) -> dict:
        """Every estimator with every L, each with noise of its own, on the first images."""
        device = self.images.device
        x = self.inputs(torch.arange(batch_size), seeded(device, self.seed, Stream.EVALUATION))
        measured = {}
        for i, (name, estimator) in enumerate(ESTIMATORS.items()):
            for num_samples in samples:
                generator = seeded(device, self.seed, Stream.EVALUATION, i, num_samples)
                measured[name, num_samples] = self.moments(
                    estimator(self.model.likelihood), x, num_samples, draws, generator
                )
        reference = measured[REFERENCE, max(samples)][0]
        return {
            "signal": reference.signal(),
            "parameters": reference.mean.numel(),
            "rows": [
                {"estimator": name, "num_latent_samples": num_samples}
                | row(moments, None if moments is reference else reference, seconds)
                for (name, num_samples), (moments, seconds) in measured.items()
            ],
        }


def row(moments: Moments, reference: Moments | None, seconds: float) -> dict:
    """What is reported of an estimator; the z-scores of its mean's difference from the reference's, over parameters."""
    variance, error = moments.total_variance()
    values = {"variance": variance, "standard_error": error, "signal": moments.signal()}
    if reference is not None:
        noise = (moments.variance_of_mean + reference.variance_of_mean).sqrt()
        z = ((moments.mean - reference.mean) / noise)[noise > 0]
        values |= {"rms_z": z.square().mean().sqrt().item(), "max_abs_z": z.abs().max().item()}
    return values | {"seconds_per_gradient": seconds}


def load_bench(args, accelerator: Accelerator) -> Bench:
    """With a trained model, or a new one that has the trainer's initial weights and pixel mean."""
    if args.pipeline is not None:
        vae = load(args.pipeline, device="cpu").module
        images = load_images(args.dataset_name, accelerator, vae.config.in_channels, vae.config.sample_size)
    else:
        images = load_images(args.dataset_name, accelerator)
        torch.manual_seed(args.seed)
        vae = build_vae(load_vae_config(args.model), images.resolution, images.channels)
        vae.pixel_mean.copy_(images.pixel_mean())
    return Bench(vae.to(accelerator.device).train(), images.train.images, args.seed)


def measure_stages(args) -> dict:
    """Measurements of a trained model; of one that is trained here, also before its training."""
    bench = load_bench(args, Accelerator())
    settings = args.batch_size, args.samples, args.draws
    if args.pipeline is not None:
        return {"trained": bench.measure(*settings)}
    stages = {"at initialisation": bench.measure(*settings)}
    bench.train(args.steps, args.batch_size)
    return stages | {f"after {args.steps} steps": bench.measure(*settings)}


def print_table(stage: str, measured: dict):
    signal = measured["signal"]
    print(f"\n{stage}: gradient by {measured['parameters']:,} parameters, squared norm of its mean {signal:.3g}")
    print(f"{'':26}{'L':>3}{'variance':>11}{'+-':>9}{'signal/var':>12}{'rms z':>7}{'max |z|':>9}{'ms/gradient':>13}")
    for r in measured["rows"]:
        scores = f"{r['rms_z']:>7.2f}{r['max_abs_z']:>9.1f}" if "rms_z" in r else f"{'reference':>16}"
        print(
            f"{r['estimator']:26}{r['num_latent_samples']:>3}{r['variance']:>11.3g}{r['standard_error']:>9.1g}"
            f"{signal / r['variance']:>12.3g}{scores}{r['seconds_per_gradient'] * 1e3:>13.1f}"
        )


def plot(stages: dict, path: Path):
    """Variance over L, a line for each estimator, a panel for each stage."""
    figure = new_figure(2.7 + 3.6 * len(stages), 4)
    panels = figure.subplots(1, len(stages), sharey=True, squeeze=False)[0]
    for axes, (stage, measured) in zip(panels, stages.items(), strict=True):
        lines = [plot_estimator(axes, measured["rows"], name) for name in ESTIMATORS]
        lines.append(axes.axhline(measured["signal"], color="0.4", ls="--", lw=1, label="squared norm\nof the mean"))
        samples = sorted({r["num_latent_samples"] for r in measured["rows"]})
        axes.set(title=stage, xlabel="latent samples per image, L", xscale="log", yscale="log")
        axes.set_xticks(samples, [str(n) for n in samples])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("total variance of the encoder's gradient")
    figure.legend(handles=lines, loc="outside right center", frameon=False)
    save_figure(figure, path)


def plot_estimator(axes, rows: list[dict], name: str):
    """Hollow markers, the later ones smaller: lines that coincide stay visible."""
    marker, size = dict(zip(ESTIMATORS, (("o", 6), ("s", 6), ("^", 9), ("v", 5)), strict=True))[name]
    rows = [r for r in rows if r["estimator"] == name]
    samples, variances, errors = (
        [r[key] for r in rows] for key in ("num_latent_samples", "variance", "standard_error")
    )
    return axes.errorbar(samples, variances, errors, label=name, marker=marker, ms=size, mfc="none", capsize=3)


def main(argv: list[str] | None = None):
    args = parse(argv)
    stages = measure_stages(args)
    print(f"{args.draws} draws on {args.batch_size} images, {environment()['device']}")
    for stage, measured in stages.items():
        print_table(stage, measured)
    if args.out:
        write_json(args.out, {**environment(), "settings": shown_settings(args), "stages": stages})
    if args.plot:
        plot(stages, args.plot)


if __name__ == "__main__":
    main()
