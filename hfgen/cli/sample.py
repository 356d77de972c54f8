"""`hfgen sample`: images from a trained pipeline, as a grid, single files, or an animation from noise to image."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from hfgen.cli.options import DEVICE, REVISION, add_options, take_options
from hfgen.cli.parser import taken_from
from hfgen.configs.sampling import SamplingConfig
from hfgen.core.errors import HfgenError
from hfgen.core.files import make_folder

OTHER_PICTURES = (".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff")


def add_parser(commands) -> None:
    """Declare the flags."""
    parser = commands.add_parser("sample", help="images from a trained pipeline", description=__doc__)
    add = parser.add_argument
    add("pipeline", metavar="PATH_OR_REPO", help="folder of a pipeline, or a repository on the Hub")
    add("--revision", help=REVISION)
    parser.add_flags(SamplingConfig)
    add_options(parser, "sampling_options")
    add("--out", type=Path, default="grid.png", help="PNG of the grid, or a new folder of PNGs (default: %(default)s)")
    add("--trajectory", dest="gif", type=Path, metavar="GIF", help="also write an animation from noise to image")
    add("--device", help=DEVICE)
    parser.set_defaults(run=run)


def run(args: Namespace) -> None:
    """Check the outputs, load, sample, write, and tell what was written.

    Raises `HfgenError` before sampling for what cannot be loaded, sampled or written.
    """
    from dataclasses import replace

    options = take_options(args, "sampling_options")
    config = replace(taken_from(args, SamplingConfig), options=options, trajectory=args.gif is not None)
    single_files = check_outputs(args.out, args.gif)
    from diffusers.utils import logging

    from hfgen.core.device import use_share_of_cores
    from hfgen.core.media import save_folder
    from hfgen.library import load, sample

    logging.disable_progress_bar()
    model = load(args.pipeline, revision=args.revision, device=args.device)
    use_share_of_cores(model.pipeline.device)
    samples = sample(model, config)
    if single_files:
        save_folder(samples.pil(), args.out)
    else:
        samples.save(args.out)
    print(f"{args.out}: {config.num_images} images of {'x'.join(map(str, samples.images.shape[1:]))}")
    if samples.trajectory is not None:
        samples.save_trajectory(args.gif)
        print(f"{args.gif}: {len(samples.trajectory)} frames of {samples.trajectory.shape[1]} images")
    rate = config.num_images / samples.seconds
    print(f"{samples.seconds:.1f} s, {rate:.3g} images/s ({samples.how}, {model.pipeline.device})")


def check_outputs(out: Path, trajectory: Path | None) -> bool:
    """Make the folders of the outputs; True if `out` is a folder for single files.

    Raises `HfgenError` for a picture format other than PNG and GIF, for a folder that is not empty, and for a place
    that cannot be written to.
    """
    suffix = out.suffix.lower()
    if suffix in OTHER_PICTURES:
        raise HfgenError(f"--out {out}: grids are PNG files, name one that ends in .png, or a folder")
    if trajectory is not None:
        if trajectory.suffix.lower() != ".gif":
            raise HfgenError(f"--trajectory {trajectory}: animations are GIF files, name one that ends in .gif")
        _check_file("--trajectory", trajectory)
    if suffix == ".png":
        _check_file("--out", out)
        return False
    make_folder("--out", out, out)
    if any(out.iterdir()):
        raise HfgenError(f"--out {out} is a folder with files in it: name a new one, or a file that ends in .png")
    return True


def _check_file(flag: str, path: Path) -> None:
    make_folder(flag, path, path.parent)
    if path.is_dir():
        raise HfgenError(f"{flag} {path} is a folder: name a file")
