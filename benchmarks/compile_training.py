"""What torch.compile makes of a training step, by preset: seconds of an eager and of a compiled step, and the steps that pay for it.

Both are hfgen's loop on the same images. They are timed in turn, several rounds in one run, so that their ratio holds on a noisy
machine; the first call of the compiled one, which compiles, is timed by itself:

    python benchmarks/compile_training.py --presets ddpm:digits vae:digits --out compile.json
    python benchmarks/compile_training.py --dataset_name ylecun/mnist --presets ddpm:mnist vae:mnist-50d --out compile-mnist.json
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
import train_throughput
from common import environment, shown_settings, write_json


def parse(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--dataset_name", default="digits", help="digits (embedded), repository, or folder in its layout"
    )
    parser.add_argument("--presets", nargs="+", default=["ddpm:digits", "vae:digits"], help="as KIND:NAME")
    parser.add_argument("--batch_size", type=int, help="default: 64 for a DDPM, 128 for a VAE")
    parser.add_argument("--seconds", type=float, default=2.0, help="of eager steps in a round, at least")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON file")
    return parser.parse_args(argv)


def seconds_of(loop, steps: int) -> float:
    start = time.perf_counter()
    loop(steps)
    return time.perf_counter() - start


def measure(preset: str, args) -> dict:
    """Medians over the rounds, and of their ratios; steps to pay is None where compiled steps are not faster."""
    kind, _, name = preset.partition(":")
    words = ["--dataset_name", args.dataset_name, "--kind", kind, "--model", name]
    words += ["--batch_size", str(args.batch_size)] if args.batch_size else []
    loops = {}
    for way, more in (("eager", []), ("compiled", ["--compile"])):
        torch.compiler.reset()
        loops[way], _ = train_throughput.make_loop("hfgen", train_throughput.parse([*words, *more]))
    first = {way: seconds_of(loop, 1) for way, loop in loops.items()}
    steps = max(1, round(args.seconds / seconds_of(loops["eager"], 1)))
    rounds = [{way: seconds_of(loop, steps) / steps for way, loop in loops.items()} for _ in range(args.rounds)]
    step = {way: statistics.median(one[way] for one in rounds) for way in loops}
    ratio = statistics.median(one["eager"] / one["compiled"] for one in rounds)
    saved, cost = step["eager"] * (1 - 1 / ratio), first["compiled"] - first["eager"]
    return {
        "preset": preset,
        "steps_per_round": steps,
        "seconds_per_step": step,
        "times_faster": ratio,
        "seconds_to_compile": cost,
        "steps_to_pay": round(cost / saved) if saved > 0 else None,
    }


def main(argv: list[str] | None = None) -> dict:
    args = parse(argv)
    results = []
    for preset in args.presets:
        results.append(measure(preset, args))
        step, ratio = results[-1]["seconds_per_step"], results[-1]["times_faster"]
        print(
            f"{preset}: {1000 * step['eager']:.3g} ms eager, {1000 * step['compiled']:.3g} ms compiled, {ratio:.2f} times as fast; "
            f"{results[-1]['seconds_to_compile']:.0f} s to compile, "
            + (
                "never paid"
                if results[-1]["steps_to_pay"] is None
                else f"paid after {results[-1]['steps_to_pay']} steps"
            )
        )
    result = {"settings": shown_settings(args), **environment(), "results": results}
    if args.out:
        write_json(args.out, result)
    return result


if __name__ == "__main__":
    main()
