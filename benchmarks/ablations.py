"""What objective, schedule and variance do to likelihood and sample quality: one small UNet, the same training budget each.

`python benchmarks/ablations.py --out ablations.json --markdown ablations.md`

Each row trains with `training/train_ddpm.py` and is measured by `hfgen evaluate`; rows that are done are kept in the folder of
`--work`, so that a run broken off goes on. With `--dataset_name ylecun/mnist --model mnist` it takes hours on a CPU.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from common import environment, shown_settings, write_json

from hfgen.results import EvaluationResult, Metric

TRAINER = Path(__file__).parents[1] / "training" / "train_ddpm.py"
SMALL_UNET = Path(__file__).with_name("ablations_unet.json")
COSINE = {"ddpm_beta_schedule": "squaredcos_cap_v2"}
# what a row does not say
HO_2020 = {"prediction_type": "epsilon", "ddpm_beta_schedule": "linear"}
ROWS = {
    "epsilon, simple, linear, beta_tilde": {},
    "epsilon, simple, linear, beta": {"ddpm_variance_type": "fixed_large"},
    "epsilon, simple, linear, learned (hybrid)": {"ddpm_variance_type": "learned_range"},
    "epsilon, simple, cosine, beta_tilde": COSINE,
    "epsilon, simple, cosine, learned (hybrid)": {**COSINE, "ddpm_variance_type": "learned_range"},
    "epsilon, bound, cosine, learned (L_vlb, importance)": {
        **COSINE,
        "ddpm_variance_type": "learned_range",
        "variance_objective": "vlb",
        "time_sampling": "importance",
    },
    "epsilon, simple, sigmoid, beta_tilde": {"ddpm_beta_schedule": "sigmoid"},
    "epsilon, bound, linear, beta_tilde": {"loss_weighting": "vlb"},
    "epsilon, min-SNR-5, linear, beta_tilde": {"loss_weighting": "min_snr"},
    "epsilon, simple, linear, beta_tilde, stratified t": {"time_sampling": "stratified"},
    "x_0, simple, linear, beta_tilde": {"prediction_type": "sample"},
    "x_0, truncated SNR, linear, beta_tilde": {"prediction_type": "sample", "loss_weighting": "truncated_snr"},
    "v, simple, linear, beta_tilde": {"prediction_type": "v_prediction"},
    "v, simple, cosine, beta_tilde": {**COSINE, "prediction_type": "v_prediction"},
    "v, simple, cosine, learned (hybrid)": {
        **COSINE,
        "prediction_type": "v_prediction",
        "ddpm_variance_type": "learned_range",
    },
    "v, simple, linear with zero SNR, beta_tilde": {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
    "mu, simple, linear, beta_tilde": {"prediction_type": "mu"},
}


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--dataset_name", default="ylecun/mnist", help="(default: %(default)s)")
    add(
        "--model",
        default=str(SMALL_UNET),
        help="preset or config of the UNet (default: benchmarks/ablations_unet.json)",
    )
    add("--steps", type=int, default=1200, help="optimizer steps of each row (default: %(default)s)")
    add("--batch_size", type=int, default=64, help="(default: %(default)s)")
    add("--learning_rate", type=float, default=2e-3, help="(default: %(default)s)")
    add("--evaluations", type=int, default=20_000, help="network evaluations for the bound (default: %(default)s)")
    add("--samples", type=int, default=500, help="(default: %(default)s)")
    add("--sampling_steps", type=int, default=50, help="ancestral steps (default: %(default)s)")
    add("--rows", nargs="+", type=int, help="numbers of the rows to run, from 0 (default: all)")
    add("--seed", type=int, default=0, help="(default: %(default)s)")
    add("--work", type=Path, default=Path("runs/ablations"), help="folder of the trainings (default: %(default)s)")
    add("--out", type=Path, help="JSON file of the results")
    add("--markdown", type=Path, help="the table as Markdown")
    return parser.parse_args(argv)


def train(args, changes: dict, folder: Path):
    flags = {
        "dataset_name": args.dataset_name,
        "model_config_name_or_path": args.model,
        "train_batch_size": args.batch_size,
        "eval_batch_size": args.batch_size,
        "max_train_steps": args.steps,
        "learning_rate": args.learning_rate,
        "lr_warmup_steps": min(100, args.steps // 10),
        "adam_beta1": 0.9,
        "ema_max_decay": 0.995,
        "save_images_epochs": 0,
        "logger": "none",
        "seed": args.seed,
        "output_dir": folder,
        "resume_from_checkpoint": "latest",
        **changes,
    }
    subprocess.run([sys.executable, str(TRAINER), *(f"--{k}={v}" for k, v in flags.items())], check=True)


def measure(args, folder: Path) -> dict[str, Metric]:
    """The metrics of `hfgen evaluate`."""
    out = folder / "ablation.json"
    if not out.is_file():
        words = f"--scheduler ddpm --likelihood --evaluations {args.evaluations} --samples {args.samples} --steps {args.sampling_steps}"
        command = [sys.executable, "-m", "hfgen", "evaluate", str(folder), "--dataset_name", args.dataset_name]
        subprocess.run([*command, *words.split(), "--seed", str(args.seed), "--out", str(out)], check=True)
    return EvaluationResult.load(out).metrics


def markdown(result: dict) -> str:
    """The table, with what it was made by and on."""
    settings, floor = result["settings"], result["floor"]
    head = (
        "| prediction, weighting, schedule, variance | bound, bits/dim | L_0 | Frechet (not FID) | precision | recall |"
    )
    lines = [
        f"| {row['name']} | {row['bits_per_dim']:.3f} ± {row['error']:.3f} | {row['L_0']:.3f} | {row['frechet']:.3f} | "
        f"{row['precision']:.3f} | {row['recall']:.3f} |"
        for row in result["rows"]
    ]
    how = (
        f"`python benchmarks/ablations.py` on {settings['dataset_name']} with {settings['model']}: the same UNet, "
        f"{settings['steps']} steps of {settings['batch_size']} training images and seed for each row. The bound on the test images "
        f"from {settings['evaluations']:,} network evaluations; Frechet distance, precision and recall of {settings['samples']} "
        f"ancestral samples of {settings['sampling_steps']} steps, floor {floor:.3f} (training images). {result['device']}, "
        + ", ".join(f"{name} {version}" for name, version in result["versions"].items())
        + "."
    )
    return "\n".join([head, "|---|---|---|---|---|---|", *lines, "", how])


def main(argv=None):
    args = parse_args(argv)
    rows, names = [], list(ROWS)
    for number in args.rows if args.rows is not None else range(len(names)):
        name = names[number]
        folder = args.work / f"{number:02d}"
        if not (folder / "ablation.json").is_file():
            train(args, HO_2020 | ROWS[name], folder)
        metrics = measure(args, folder)
        bound = metrics["vlb_total_bits_per_dim"]
        rows.append(
            {
                "name": name,
                "flags": ROWS[name],
                "bits_per_dim": bound.mean,
                "error": bound.standard_error,
                "L_0": metrics["vlb_reconstruction_bits_per_dim"].mean,
                **{key: metrics[key].mean for key in ("frechet", "precision", "recall")},
            }
        )
        floor = metrics["frechet_floor"].mean
        result = {**environment(), "settings": shown_settings(args), "floor": floor, "rows": rows}
        table = markdown(result)
        if args.out is not None:
            write_json(args.out, result)
        if args.markdown is not None:
            args.markdown.write_text(table + "\n")
    print(table)


if __name__ == "__main__":
    main()
