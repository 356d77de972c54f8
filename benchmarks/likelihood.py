"""What the bound of a diffusion model costs: standard error and time by network evaluations, memory by images.

`python benchmarks/likelihood.py model_cards/ddpm-mnist --dataset_name ylecun/mnist --out likelihood.json`

Each row is a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from common import environment, shown_settings, write_json

BUDGETS = (1_000, 3_000, 10_000, 30_000, 100_000)
IMAGES = (100, 1_000, 10_000)
MEMORY_BUDGET = 1_000


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("pipeline", help="folder of a diffusion pipeline, or a repository on the Hub")
    add("--dataset_name", default="ylecun/mnist", help="(default: %(default)s)")
    add("--split", default="test", help="(default: %(default)s)")
    add("--budgets", type=int, nargs="*", default=BUDGETS, help="network evaluations (default: %(default)s)")
    add("--exact_images", type=int, default=10, help="images with every t, 0: none (default: %(default)s)")
    add("--seed", type=int, default=0, help="(default: %(default)s)")
    add("--device", help="(default: the first of cuda, mps and cpu there is)")
    add("--out", type=Path, help="JSON file of the results")
    add("--row", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def measure(args, evaluations: int | None, max_images: int | None) -> dict:
    """One bound in this process."""
    import hfgen

    model = hfgen.load(args.pipeline, device=args.device)
    start = time.perf_counter()
    data = {"dataset_name": args.dataset_name, "split": args.split, "max_images": max_images, "seed": args.seed}
    options = {"exact": True} if evaluations is None else {"evaluations": evaluations}
    result = hfgen.evaluate(model, **data, **options)
    bound, facts = result.headline("bound", "bits/dim"), result.likelihood.facts
    on_gpu = model.module.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "images": result.images,
        "evaluations": facts["evaluations"],
        "exact": facts["exact"],
        "bits_per_dim": bound.mean,
        "standard_error": bound.standard_error,
        "seconds": time.perf_counter() - start,
        "peak_mib": peak / 2**20,
    }


def measured_apart(argv: list[str], row: dict) -> dict:
    """The same in a process of its own."""
    command = [sys.executable, __file__, *argv, "--row", json.dumps(row)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    args = parse_args()
    if args.row is not None:
        print(json.dumps(measure(args, **args.row)))
        return
    argv = sys.argv[1:]
    rows = [{"evaluations": budget, "max_images": None} for budget in args.budgets]
    rows += [{"evaluations": MEMORY_BUDGET, "max_images": count} for count in IMAGES]
    if args.exact_images:
        rows.append({"evaluations": None, "max_images": args.exact_images})
    print(
        f"{'images':>7} {'evaluations':>12} {'bits/dim':>9} {'error':>8} {'error*sqrt(n)':>13} {'seconds':>8} {'MiB':>6}"
    )
    results = []
    for row in rows:
        result = measured_apart(argv, row)
        results.append(result)
        scaled = result["standard_error"] * math.sqrt(result["evaluations"])
        print(
            f"{result['images']:>7} {result['evaluations']:>12} {result['bits_per_dim']:>9.4f} {result['standard_error']:>8.4f} "
            f"{scaled:>13.3f} {result['seconds']:>8.1f} {result['peak_mib']:>6.0f}{'  every t' if result['exact'] else ''}",
            flush=True,
        )
    if args.out is not None:
        settings = {k: v for k, v in shown_settings(args).items() if k != "row"}
        write_json(args.out, {**environment(), "settings": settings, "rows": results})


if __name__ == "__main__":
    main()
