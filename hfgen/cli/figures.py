"""`hfgen figures`: pictures of a trained model, such as samples, reconstructions, interpolations, latents, curves."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from hfgen.cli.options import DEVICE, REVISION
from hfgen.cli.parser import taken_from
from hfgen.configs.evaluation import FiguresConfig
from hfgen.core.overwrite import check_picture


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
    images = choose_images(config, {model.name: model.folder})
    data = images.held_out.load(
        model.image_shape, model.pipeline.device, max_images=config.max_images, seed=config.seed
    )
    images.tell()
    make_folder("--out", out, out)
    with TemporaryDirectory(dir=out, prefix=".figures-") as place:
        beside = Path(place)
        drawn = model.family.figures(model.pipeline, data, out=beside, seed=config.seed, training=model.folder)
        if model.folder is not None:
            drawn += save_curves(model.folder, beside)
        written = _moved(drawn, out)
    print(*written, sep="\n")


def _moved(pictures: Sequence[Path], out: Path) -> list[Path]:
    """Where the pictures are now; `HfgenError`, and none is moved, where one of them would replace what is no picture."""
    places = [out / picture.name for picture in pictures]
    for place in places:
        check_picture("--out", place, place.suffix.removeprefix(".").upper())
    for picture, place in zip(pictures, places, strict=True):
        picture.replace(place)
    return places
