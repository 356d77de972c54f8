"""`hfgen sample`: images from a trained pipeline, as a grid, single files, or an animation from noise to image."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hfgen.cli.options import DEVICE, REVISION, add_options, take_options
from hfgen.cli.parser import taken_from
from hfgen.configs.sampling import SamplingConfig
from hfgen.core.errors import HfgenError
from hfgen.core.files import check_writable, make_folder
from hfgen.core.overwrite import check_picture, check_replaceable
from hfgen.core.processes import is_first, on_first

if TYPE_CHECKING:
    from hfgen.drawing.draw import Samples
    from hfgen.families.model import Model

OUT = "PNG of the grid, or a folder of PNGs, in which work broken off goes on (default: %(default)s)"
VIDEO = (
    "of a model of clips: the animation beside the grid of frames (default: OUT as GIF); MP4 where PyAV is installed"
)
CLIP_SHAPE = 4  # frames, channels, height, width
OTHER_PICTURES = (".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff")


def add_parser(commands) -> None:
    """Declare the flags."""
    parser = commands.add_parser("sample", help="images from a trained pipeline", description=__doc__)
    add = parser.add_argument
    add("pipeline", metavar="PATH_OR_REPO", help="folder of a pipeline, or a repository on the Hub")
    add("--revision", help=REVISION)
    parser.add_flags(SamplingConfig)
    add_options(parser, "sampling_options")
    add("--out", type=Path, default="grid.png", help=OUT)
    add("--trajectory", dest="gif", type=Path, metavar="GIF", help="also write an animation from noise to image")
    add("--video", type=Path, metavar="GIF_OR_MP4", help=VIDEO)
    add("--overwrite", action="store_true", help="draw anew into a folder, whose images by hfgen are removed first")
    add("--device", help=DEVICE)
    parser.set_defaults(run=run, shares=True)


def run(args: Namespace) -> None:
    """Check the outputs, load, sample, write, and tell what was written.

    Raises `HfgenError` before sampling for what cannot be loaded, sampled or written.
    """
    from dataclasses import replace

    options = take_options(args, "sampling_options")
    config = replace(taken_from(args, SamplingConfig), options=options, trajectory=args.gif is not None)
    single_files = on_first(lambda: check_outputs(args.out, args.gif, overwrite=args.overwrite))
    if args.video is not None:
        on_first(lambda: check_video(args.video))
    from diffusers.utils import logging

    from hfgen.core.device import set_up_processor
    from hfgen.core.media import PICTURE_CHANNELS
    from hfgen.library import load

    logging.disable_progress_bar()
    model = load(args.pipeline, revision=args.revision, device=args.device)
    set_up_processor(model.pipeline.device)
    channels = model.image_shape[-3]
    if channels not in PICTURE_CHANNELS:
        raise HfgenError(
            f"{model.name} has images of {channels} channels: pictures have 1, 3 or 4; use hfgen.sample in Python"
        )
    _check_clips(model, args, single_files)
    write = _write_folder if single_files else _write_grid
    told = write(model, config, args)
    if is_first():
        print(*told, sep="\n")


def _check_clips(model: Model, args: Namespace, single_files: bool) -> None:
    """Name the animation of a model of clips where nobody has; `HfgenError` for outputs that the model has not."""
    clips = len(model.image_shape) == CLIP_SHAPE
    if args.video is not None and not clips:
        raise HfgenError(f"--video {args.video}: {model.name} draws images, no clips: leave it out")
    if clips and single_files:
        raise HfgenError(f"--out {args.out}: of clips all frames are one picture, name a file that ends in .png")
    if clips and args.video is None:
        args.video = args.out.with_suffix(".gif")
        on_first(lambda: check_video(args.video))


def _write_grid(model: Model, config: SamplingConfig, args: Namespace) -> list[str]:
    """Draw, write, and what to tell of it."""
    from hfgen.library import sample

    samples = sample(model, config)

    def save() -> list[str]:
        samples.save(args.out)
        told = _told(args.out, config, samples.images.shape[1:])
        return [told, *_write_trajectory(samples, args), *_write_video(samples, args)]

    return [*on_first(save), _rate(config.num_images, samples.seconds, samples.how, model)]


def _write_folder(model: Model, config: SamplingConfig, args: Namespace) -> list[str]:
    """As `_write_grid`, but what is there already is not drawn again."""
    from hfgen.sampling.folder import draw_into_folder

    done = draw_into_folder(model, config, args.out, overwrite=args.overwrite)
    told = [_told(args.out, config, model.image_shape)]
    if done.head is not None:
        told += on_first(partial(_write_trajectory, done.head, args))
    if done.drawn < config.num_images:
        told.append(f"{config.num_images - done.drawn} of them were there already")
    return [*told, _rate(done.drawn, done.seconds, done.how, model)] if done.drawn else told


def _told(out: Path, config: SamplingConfig, shape: Sequence[int]) -> str:
    what = "clips" if len(shape) == CLIP_SHAPE else "images"
    return f"{out}: {config.num_images} {what} of {'x'.join(map(str, shape))}"


def _write_trajectory(samples: Samples, args: Namespace) -> list[str]:
    if samples.trajectory is None:
        return []
    samples.save_trajectory(args.gif)
    return [f"{args.gif}: {len(samples.trajectory)} frames of {samples.trajectory.shape[1]} images"]


def _write_video(samples: Samples, args: Namespace) -> list[str]:
    if args.video is None:
        return []
    samples.save_clips(args.video)
    return [f"{args.video}: {samples.images.shape[1]} frames of {len(samples.images)} clips"]


def _rate(drawn: int, seconds: float, how: str, model: Model) -> str:
    return f"{seconds:.1f} s, {drawn / seconds:.3g} images/s ({how}, {model.pipeline.device})"


def check_video(path: Path) -> None:
    """Raise `HfgenError` for an animation that cannot be written, or would take the place of what is none."""
    from hfgen.core.video import check_animation

    check_animation("--video", path)
    check_writable("--video", path)
    if path.suffix.lower() == ".gif":
        check_picture("--video", path, "GIF")
    else:
        check_replaceable("--video", path, lambda _: True, "MP4", overwrite=False)


def check_outputs(out: Path, trajectory: Path | None, *, overwrite: bool = False) -> bool:
    """Make the folders of the outputs; True if `out` is a folder for single files.

    Raises `HfgenError` for a picture format other than PNG and GIF, for a file that is there and no such picture, for a
    folder with files that hfgen did not draw there, and for a place that cannot be written to.
    """
    suffix = out.suffix.lower()
    if suffix in OTHER_PICTURES:
        raise HfgenError(f"--out {out}: grids are PNG files, name one that ends in .png, or a folder")
    if trajectory is not None:
        if trajectory.suffix.lower() != ".gif":
            raise HfgenError(f"--trajectory {trajectory}: animations are GIF files, name one that ends in .gif")
        check_writable("--trajectory", trajectory)
        check_picture("--trajectory", trajectory, "GIF")
    if suffix == ".png":
        check_writable("--out", out)
        check_picture("--out", out, "PNG")
        return False
    from hfgen.sampling.folder import check_folder

    make_folder("--out", out, out)
    check_folder(out, overwrite)
    return True
