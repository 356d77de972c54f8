"""`hfgen figures`: pictures of a trained VAE: samples, reconstructions, interpolations, latents, manifold, curves."""

from __future__ import annotations

from pathlib import Path

from hfgen.commands.values import whole_number
from hfgen.errors import HfgenError


def add_parser(commands):
    """Declare the flags."""
    parser = commands.add_parser("figures", help="pictures of a trained VAE", description=__doc__)
    add = parser.add_argument
    add("pipeline", metavar="PATH_OR_REPO", help="folder of a VAE pipeline, or a repository on the Hub")
    add("--revision", help="branch, tag or commit of the repository")
    add("--dataset_name", default="ylecun/mnist", help="repository, local folder, or digits (default: %(default)s)")
    add("--dataset_config_name", help="configuration of the dataset")
    add("--split", default="test", help="split of the images (default: %(default)s)")
    add("--max_images", type=whole_number(1), help="images to use at most, the first ones (default: all)")
    add("--out", type=Path, help="folder for the pictures (default: the pipeline's own, or figures for a repository)")
    add("--seed", type=whole_number(0), default=0, help="of the samples (default: %(default)s)")
    add("--device", help="such as cuda:1 or cpu (default: cuda, mps or cpu, the first there is)")
    parser.set_defaults(run=run)


def run(args):
    """Load the model and the images, write the pictures, tell their names.

    Raises `HfgenError` for what cannot be loaded or written.
    """
    from diffusers.utils import logging

    from hfgen.evaluation.images import load_evaluation_images
    from hfgen.evaluation.vae_figures import save_vae_figures
    from hfgen.loading import load_vae_pipeline
    from hfgen.sampling import pick_device

    logging.disable_progress_bar()
    device = pick_device(args.device)
    pipeline = load_vae_pipeline(args.pipeline, args.revision, device)
    folder = Path(args.pipeline)
    out = args.out or (folder if folder.is_dir() else Path("figures"))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HfgenError(f"--out {out} is no folder ({error.strerror}): name another") from error
    config = pipeline.vae.config
    data = load_evaluation_images(
        args.dataset_name,
        args.split,
        config.in_channels,
        config.sample_size,
        device,
        args.max_images,
        args.dataset_config_name,
    )
    for path in save_vae_figures(pipeline, data, folder, out, args.seed):
        print(path)
