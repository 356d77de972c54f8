"""`hfgen figures`: pictures of a trained model, such as samples, reconstructions, interpolations, latents, curves."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from hfgen.cli.options import DEVICE, REVISION
from hfgen.cli.parser import taken_from
from hfgen.configs.evaluation import FiguresConfig


def add_parser(commands) -> None:
    """Declare the flags."""
    parser = commands.add_parser("figures", help="pictures of a trained model", description=__doc__)
    add = parser.add_argument
    add("pipeline", metavar="PATH_OR_REPO", help="folder of a pipeline, or a repository on the Hub")
    add("--revision", help=REVISION)
    parser.add_flags(FiguresConfig)
    add("--out", type=Path, help="folder for the pictures (default: the pipeline's own, or figures for a repository)")
    add("--device", help=DEVICE)
    parser.set_defaults(run=run)


def run(args: Namespace) -> None:
    """Load the model and the images, write the pictures, tell their names.

    Raises `HfgenError` for what cannot be loaded or written.
    """
    config = taken_from(args, FiguresConfig)
    from diffusers.utils import logging

    from hfgen.core.device import set_up_processor
    from hfgen.core.files import make_folder
    from hfgen.data.choice import choose_images
    from hfgen.library import load
    from hfgen.trainer.curves import save_curves

    logging.disable_progress_bar()
    model = load(args.pipeline, revision=args.revision, device=args.device)
    set_up_processor(model.pipeline.device)
    here = Path(args.pipeline).is_dir()
    out = args.out or (Path(args.pipeline) if here else Path("figures"))
    make_folder("--out", out, out)
    images = choose_images(config, {model.name: model.folder})
    data = images.held_out.load(
        model.image_shape, model.pipeline.device, max_images=config.max_images, seed=config.seed
    )
    images.tell()
    written = model.family.figures(model.pipeline, data, out=out, seed=config.seed, training=model.folder)
    if model.folder is not None:
        written += save_curves(model.folder, out)
    print(*written, sep="\n")
