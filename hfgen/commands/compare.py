"""`hfgen compare`: pipelines side by side on the same images, as Markdown and as one HTML page with the pictures in it."""

from __future__ import annotations

from pathlib import Path

from hfgen.commands.evaluate import add_evaluation_flags
from hfgen.commands.values import whole_number
from hfgen.errors import HfgenError


def add_parser(commands):
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
    add("--repeat", type=whole_number(1), default=3, help="timings of which the median is taken (default: %(default)s)")
    add(
        "--out",
        type=Path,
        default=Path("comparison.html"),
        help="HTML page; a table goes beside it as .md, and work broken off goes on from there (default: %(default)s)",
    )
    parser.set_defaults(run=run, samples=1000)


def run(args):
    """Measure all, print the table, write both files.

    Raises `HfgenError` for fewer than two models, for two of one name, and as `hfgen evaluate`.
    """
    from diffusers.utils import logging

    from hfgen.evaluation.compare import compare
    from hfgen.evaluation.report import check_writable

    logging.disable_progress_bar()
    if len(args.models) < 2:
        raise HfgenError(f"{args.models[0]} alone: name two or more pipelines to compare")
    if args.out.suffix != ".html":
        raise HfgenError(f"--out {args.out}: the page is an HTML file, name one that ends in .html")
    check_writable(args.out)
    table = compare(args, args.out)
    print(table)
    print(f"{args.out}\n{args.out.with_suffix('.md')}")
