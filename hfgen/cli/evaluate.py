"""`hfgen evaluate`: the likelihood of held-out images and the quality of samples, as a table, JSON and plots."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

from hfgen.cli.options import DEVICE, REVISION, add_options, take_options
from hfgen.cli.parser import Parser, taken_from
from hfgen.configs.evaluation import EvaluationConfig
from hfgen.core.processes import is_first, on_first


def add_parser(commands) -> None:
    """Declare the flags."""
    parser = commands.add_parser("evaluate", help="likelihood and sample quality of a pipeline", description=__doc__)
    add = parser.add_argument
    add("pipeline", metavar="PATH_OR_REPO", help="folder of a pipeline, or a repository on the Hub")
    add("--revision", help=REVISION)
    add_evaluation_flags(parser)
    add("--out", type=Path, help="JSON file of the results; plots go beside it, and work broken off goes on from there")
    add("--overwrite", action="store_true", help="replace files at --out that are no results of hfgen")
    add("--device", help=DEVICE)
    parser.set_defaults(run=run, shares=True)


def add_evaluation_flags(parser: Parser) -> None:
    """What is measured, and on which images."""
    parser.add_flags(EvaluationConfig)
    add_options(parser, "likelihood_options", "sampling_options")


def take_evaluation(args: Namespace) -> EvaluationConfig:
    """The configuration of those flags; `HfgenError` for numbers out of range."""
    options = take_options(args, "likelihood_options", "sampling_options")
    return replace(taken_from(args, EvaluationConfig), options=options)


def run(args: Namespace) -> None:
    """Load the model and the images, measure, write the results, print a table.

    Raises `HfgenError` for what cannot be loaded, measured or written.
    """
    config = take_evaluation(args)
    from diffusers.utils import logging

    from hfgen.core.device import set_up_processor
    from hfgen.core.files import check_writable
    from hfgen.evaluation.evaluate import check_out, write_results
    from hfgen.library import evaluate, load

    logging.disable_progress_bar()
    if args.out is not None:
        on_first(lambda: check_writable("--out", args.out))
        on_first(lambda: check_out(args.out, args.overwrite))
    model = load(args.pipeline, revision=args.revision, device=args.device)
    set_up_processor(model.pipeline.device)
    result = evaluate(model, config, out=args.out)
    written = [] if args.out is None else write_results(result, model.family, args.out)
    if is_first():
        print(result.table(), *written, sep="\n")
