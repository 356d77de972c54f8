"""`hfgen publish`: a trained pipeline's folder to the Hub, with its card, or a demo page of several as a Space, in one commit."""

from __future__ import annotations

from argparse import Action
from pathlib import Path

TOLD = 10


def add_parser(commands):
    """Declare the flags."""
    parser = commands.add_parser(
        "publish",
        help="push a trained pipeline, or a demo page, to the Hub",
        description=__doc__,
        usage="%(prog)s [flags] DIR REPO\n       %(prog)s [flags] --space REPO MODEL [MODEL ...]",
    )
    add = parser.add_argument
    positionals = (
        add("folder", metavar="DIR", type=Path, help="folder of a pipeline, such as the --output_dir of a training"),
        add("repo", metavar="REPO", help="user/name on the Hub, or a name in your namespace; made if it is not there"),
    )
    add(
        "--space",
        metavar=("REPO", "MODEL"),
        nargs="+",
        action=Instead,
        positionals=positionals,
        help="push instead a demo page as a Space of this name, with models: folders, which go along, and public repositories, which it fetches",
    )
    add("--private", action="store_true", help="make a new repository private")
    add("--revision", help="branch to commit to, made if it is not there (default: main)")
    add("--create_pr", action="store_true", help="open a pull request instead of committing")
    add(
        "--include",
        metavar="PATTERN",
        action="append",
        default=[],
        help="push also what is no part of the pipeline: a file, a folder or a pattern of them; can be repeated",
    )
    parser.set_defaults(run=run, refuse=parser.error)


def run(args):
    """Push and tell where to look. Raises `HfgenError` as `publish_folder` and `publish_space` do."""
    from diffusers.utils import logging
    from huggingface_hub.utils import disable_progress_bars

    logging.disable_progress_bar()
    disable_progress_bars()  # one that an error stops leaves no new line for the message
    where = {"private": args.private, "revision": args.revision, "create_pr": args.create_pr}
    done = _model(args, where) if args.space is None else _space(args, where)
    print(
        f"{done.files} files: {done.url}"
        if done.changed
        else f"{done.repo} has these {done.files} files already: {done.url}"
    )
    if done.left:
        more = len(done.left) - TOLD
        names = ", ".join(done.left[:TOLD]) + (f" and {more} more" if more > 0 else "")
        print(f"left here: {names}; name them with --include PATTERN to push them too")


class Instead(Action):
    """A flag in whose presence these positional arguments may be missing."""

    def __init__(self, *args, positionals, **kwargs):
        super().__init__(*args, **kwargs)
        self.positionals = positionals

    def __call__(self, parser, namespace, values, option_string=None):
        for action in self.positionals:
            action.required = False
        setattr(namespace, self.dest, values)


def _model(args, where):
    from hfgen.hub.publish import publish_folder

    return publish_folder(args.folder, args.repo, include=args.include, **where)


def _space(args, where):
    repo, *models = args.space
    if not models or args.folder is not None or args.include:
        args.refuse("--space takes a REPO and its models, and goes neither with DIR REPO nor with --include")
    from hfgen.hub.space import publish_space

    return publish_space(repo, models, **where)
