"""`hfgen evaluate`: bounds on the likelihood of held-out images and the quality of samples, as a table, JSON and plots."""

from __future__ import annotations

from pathlib import Path

from hfgen.commands.sample import COMPILE
from hfgen.commands.values import fraction, non_negative, whole_number
from hfgen.errors import HfgenError
from hfgen.schedulers.names import SAMPLER_NAMES


def add_parser(commands):
    """Declare the flags."""
    parser = commands.add_parser("evaluate", help="likelihood and sample quality of a pipeline", description=__doc__)
    add = parser.add_argument
    add("pipeline", metavar="PATH_OR_REPO", help="folder of a pipeline, or a repository on the Hub")
    add("--revision", help="branch, tag or commit of the repository")
    add_evaluation_flags(parser)
    add("--out", type=Path, help="JSON file of the results; plots go beside it, and work broken off goes on from there")
    parser.set_defaults(run=run)


def add_evaluation_flags(parser):
    """What is measured, and on which images."""
    add = parser.add_argument
    add("--dataset_name", default="ylecun/mnist", help="repository, local folder, or digits (default: %(default)s)")
    add("--dataset_config_name", help="configuration of the dataset")
    add("--split", default="test", help="split of the images (default: %(default)s)")
    add("--train_split", default="train", help="split whose images set the floor of --samples (default: %(default)s)")
    add("--max_images", type=whole_number(1), help="images for the likelihood at most, the first ones (default: all)")
    add("--likelihood", action="store_true", help="bounds on the likelihood; measured too when --samples is not given")
    add("--exact", action="store_true", help="of a diffusion model: every t for every image")
    add(
        "--evaluations",
        type=whole_number(100),
        default=100_000,
        help="of a diffusion model: network evaluations for the bound, without --exact (default: %(default)s)",
    )
    add("--iw_samples", type=whole_number(1), default=5000, help="of a VAE: samples an image (default: %(default)s)")
    add("--samples", type=whole_number(2), help="images to draw for Frechet distance, precision and recall")
    add("--steps", type=whole_number(1), help="denoising steps of the samples (default: as in hfgen sample)")
    add("--scheduler", choices=SAMPLER_NAMES, help="sampler of a diffusion model (default: as in hfgen sample)")
    add("--eta", type=fraction, help="noise of ddim, from 0 to 1 as in ddpm (default: 0)")
    add("--guidance_scale", type=non_negative, help="of a class-conditional model, 1: no guidance (default: 1)")
    add("--sample_pixels", action="store_true", help="of a VAE: draw from p(x|z) instead of taking its mean")
    add(
        "--features", help="image classifier of transformers for --samples (default: one of digits, shipped with hfgen)"
    )
    add("--compile", action="store_true", help=f"for --samples: {COMPILE}")
    add("--batch_size", type=whole_number(1), help="images at once (default: by model and device)")
    add("--seed", type=whole_number(0), default=0, help="of noise, times and samples (default: %(default)s)")
    add("--device", help="such as cuda:1 or cpu (default: cuda, mps or cpu, the first there is)")


def run(args):
    """Load the model and the images, measure, print a table, write the results.

    Raises `HfgenError` for what cannot be loaded, measured or written.
    """
    from diffusers.utils import logging

    from hfgen.evaluation.evaluate import evaluate, write_results
    from hfgen.evaluation.report import check_writable, format_table
    from hfgen.loading import load_pipeline
    from hfgen.sampling import pick_device

    logging.disable_progress_bar()
    check_flags(args)
    if args.out is not None:
        check_writable(args.out)
    pipeline = load_pipeline(args.pipeline, args.revision, pick_device(args.device))
    results, samples = evaluate(pipeline, args, args.out)
    print(format_table(results))
    if args.out is not None:
        for path in write_results(results, samples, args.out):
            print(path)


def check_flags(args):
    """Raise `HfgenError` for flags of samples without samples."""
    given = [
        f"--{name}"
        for name in ("steps", "scheduler", "eta", "guidance_scale", "features")
        if getattr(args, name) is not None
    ]
    given += [f"--{name}" for name in ("sample_pixels", "compile") if getattr(args, name)]
    if args.samples is None and given:
        raise HfgenError(f"{', '.join(given)}: only with --samples, such as --samples 10000")
