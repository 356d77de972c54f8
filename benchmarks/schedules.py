"""What a learned noise schedule changes: variational diffusion models on a fixed, a scalar and a network schedule, one budget each.

`python benchmarks/schedules.py --out schedules.json --markdown schedules.md`

Each row trains with `training/train_vdm.py` and is measured by `hfgen evaluate`. Rows that are done are kept in the folder of
`--work`, so that a run broken off goes on.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from common import environment, shown_settings, write_json

import hfgen
from hfgen.results import EvaluationResult

TRAINING = Path(__file__).parents[1] / "training"
SCHEDULES = ("fixed", "scalar", "network")
ENDS = {"fixed": "fixed line", "scalar": "line, ends learned", "network": "monotone network"}


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--dataset_name", default="ylecun/mnist", help="(default: %(default)s)")
    add("--config", default=str(TRAINING / "vdm-mnist.yaml"), help="YAML of the training (default: %(default)s)")
    add("--steps", type=int, default=1800, help="optimizer steps of each row (default: %(default)s)")
    add("--evaluations", type=int, default=40_000, help="network evaluations for the bound (default: %(default)s)")
    add("--seed", type=int, default=0, help="(default: %(default)s)")
    add("--work", type=Path, default=Path("runs/schedules"), help="folder of the trainings (default: %(default)s)")
    add("--out", type=Path, help="JSON file of the results")
    add("--markdown", type=Path, help="the table as Markdown")
    return parser.parse_args(argv)


def measure(args, gamma: str) -> dict:
    """A row: trained where it is not yet, and evaluated."""
    folder = args.work / gamma
    out = folder / "results.json"
    if not out.is_file():
        flags = {
            "config": args.config,
            "dataset_name": args.dataset_name,
            "gamma": gamma,
            "max_train_steps": args.steps,
            "save_images_epochs": 0,
            "logger": "none",
            "seed": args.seed,
            "output_dir": folder,
            "resume_from_checkpoint": "latest",
        }
        command = [sys.executable, str(TRAINING / "train_vdm.py"), *(f"--{k}={v}" for k, v in flags.items())]
        subprocess.run(command, check=True)
        data = {"dataset_name": args.dataset_name, "split": "test"}
        hfgen.evaluate(folder, out=out, evaluations=args.evaluations, seed=args.seed, **data).save(out)
    return row(gamma, EvaluationResult.load(out))


def row(gamma: str, result: EvaluationResult) -> dict:
    """What the table tells of a schedule, in bits/dim, and the evaluations that a standard error of 0.01 takes."""
    facts = result.likelihood.facts
    bound, deviation = result.metrics["vlb_total_bits_per_dim"], facts["deviation_of_one_evaluation_bits_per_dim"]
    return {
        "gamma": gamma,
        "bits_per_dim": bound.mean,
        "standard_error": bound.standard_error,
        "gamma_0": facts["gamma_0"],
        "gamma_1": facts["gamma_1"],
        "variance": deviation**2,
        "evaluations_for_0.01": round((deviation / 0.01) ** 2),
    }


def markdown(result: dict) -> str:
    """The table, with what it was made by and on."""
    settings = result["settings"]
    head = "| schedule | bound, bits/dim | gamma(0) | gamma(1) | variance of one evaluation | evaluations for 0.01 bits/dim |"
    lines = [
        f"| {ENDS[row['gamma']]} | {row['bits_per_dim']:.3f} ± {row['standard_error']:.3f} | {row['gamma_0']:.2f} | "
        f"{row['gamma_1']:.2f} | {row['variance']:.3f} | {row['evaluations_for_0.01']:,} |"
        for row in result["rows"]
    ]
    how = (
        f"`python benchmarks/schedules.py` on {settings['dataset_name']}: the same network, {settings['steps']} steps and seed for "
        f"each row, the bound on the test images from {settings['evaluations']:,} network evaluations. {result['device']}, "
        + ", ".join(f"{name} {version}" for name, version in result["versions"].items())
        + "."
    )
    return "\n".join([head, "|---|---|---|---|---|---|", *lines, "", how])


def main(argv=None):
    args = parse_args(argv)
    rows = [measure(args, gamma) for gamma in SCHEDULES]
    result = {**environment(), "settings": shown_settings(args), "rows": rows}
    print(markdown(result))
    if args.out is not None:
        write_json(args.out, result)
    if args.markdown is not None:
        args.markdown.write_text(markdown(result) + "\n")


if __name__ == "__main__":
    main()
