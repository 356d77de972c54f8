"""`hfgen compare`: pipelines side by side on the same images, as Markdown and as one HTML page with the pictures in it."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from hfgen.cli.evaluate import add_evaluation_flags, take_evaluation
from hfgen.cli.options import DEVICE
from hfgen.configs.evaluation import COMPARED_SAMPLES
from hfgen.core.errors import HfgenError
from hfgen.core.processes import is_first, on_first


def add_parser(commands) -> None:
    """Declare the flags."""
    parser = commands.add_parser("compare", help="pipelines side by side", description=__doc__)
    add = parser.add_argument
    add(
        "models",
        metavar="PATH_OR_REPO",
        nargs="+",
        help="folders of pipelines, or repositories on the Hub; two or more",
    )
    add_evaluation_flags(parser)
    add("--repeat", type=int, default=3, help="timings of which the median is taken (default: %(default)s)")
    add(
        "--out",
        type=Path,
        default=Path("comparison.html"),
        help="HTML page; a table goes beside it as .md, and work broken off goes on from there (default: %(default)s)",
    )
    add("--overwrite", action="store_true", help="replace files at --out that hfgen compare did not write")
    add("--device", help=DEVICE)
    parser.set_defaults(run=run, shares=True, samples=COMPARED_SAMPLES)


def run(args: Namespace) -> None:
    """Measure all, write both files, print the table.

    Raises `HfgenError` for fewer than two models, for two of one name, and as `hfgen evaluate`.
    """
    config = take_evaluation(args)
    from diffusers.utils import logging

    from hfgen.core.device import pick_device, set_up_processor
    from hfgen.core.files import check_writable
    from hfgen.library import compare

    logging.disable_progress_bar()
    set_up_processor(pick_device(args.device))
    if len(args.models) < 2:
        raise HfgenError(f"{args.models[0]} alone: name two or more pipelines to compare")
    if args.out.suffix != ".html":
        raise HfgenError(f"--out {args.out}: the page is an HTML file, name one that ends in .html")
    on_first(lambda: check_writable("--out", args.out))
    comparison = compare(
        args.models, config, out=args.out, repeat=args.repeat, device=args.device, overwrite=args.overwrite
    )
    if is_first():
        print(comparison.table(), args.out, args.out.with_suffix(".md"), sep="\n")
