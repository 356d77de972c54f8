"""`hfgen card`: write the model card of a trained pipeline's folder, or bring the results on it up to date."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path


def add_parser(commands) -> None:
    """Declare the flags."""
    parser = commands.add_parser("card", help="write a folder's model card", description=__doc__)
    add = parser.add_argument
    add("folder", metavar="DIR", type=Path, help="folder of a pipeline, such as the --output_dir of a training")
    parser.set_defaults(run=run)


def run(args: Namespace) -> None:
    """Write and tell where. Raises `HfgenError` for a folder that is no pipeline's, and as `refresh_card`."""
    from diffusers.utils import logging

    from hfgen.hub.card import refresh_card
    from hfgen.hub.publish import load_folder

    logging.disable_progress_bar()
    print(refresh_card(load_folder(args.folder)))
