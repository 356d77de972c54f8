"""`hfgen evaluate`: a VAE's bounds on the likelihood of held-out images, as a table and a JSON file."""

from __future__ import annotations

from pathlib import Path

from hfgen.commands.values import whole_number


def add_parser(commands):
    """Declare the flags."""
    parser = commands.add_parser("evaluate", help="bounds on the likelihood of held-out images", description=__doc__)
    add = parser.add_argument
    add("pipeline", metavar="PATH_OR_REPO", help="folder of a VAE pipeline, or a repository on the Hub")
    add("--revision", help="branch, tag or commit of the repository")
    add("--dataset_name", default="ylecun/mnist", help="repository, local folder, or digits (default: %(default)s)")
    add("--dataset_config_name", help="configuration of the dataset")
    add("--split", default="test", help="split of the images (default: %(default)s)")
    add("--max_images", type=whole_number(1), help="images to use at most, the first ones (default: all)")
    add("--iw_samples", type=whole_number(1), default=5000, help="importance samples an image (default: %(default)s)")
    add("--batch_size", type=whole_number(1), default=20, help="images at once (default: %(default)s)")
    add("--seed", type=whole_number(0), default=0, help="of binarisation and samples (default: %(default)s)")
    add("--out", type=Path, help="JSON file of the results")
    add("--device", help="such as cuda:1 or cpu (default: cuda, mps or cpu, the first there is)")
    parser.set_defaults(run=run)


def run(args):
    """Load the model and the images, measure, print a table, write the results.

    Raises `HfgenError` for what cannot be loaded, measured or written.
    """
    from diffusers.utils import logging

    from hfgen.evaluation.report import check_writable, format_table, save_json
    from hfgen.evaluation.vae import evaluate_vae
    from hfgen.loading import load_vae_pipeline
    from hfgen.sampling import pick_device

    logging.disable_progress_bar()
    if args.out is not None:
        check_writable(args.out)
    device = pick_device(args.device)
    pipeline = load_vae_pipeline(args.pipeline, args.revision, device)
    results = evaluate_vae(
        pipeline.vae,
        args.dataset_name,
        args.split,
        num_samples=args.iw_samples,
        max_images=args.max_images,
        dataset_config_name=args.dataset_config_name,
        seed=args.seed,
        batch_size=args.batch_size,
    )
    print(format_table(results))
    if args.out is not None:
        save_json(results, args.out)
        print(f"results: {args.out}")
