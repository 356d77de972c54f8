"""`hfgen publish`: a trained pipeline's folder to the Hub, with its card, in one commit."""

from __future__ import annotations

from pathlib import Path

TOLD = 10


def add_parser(commands):
    """Declare the flags."""
    parser = commands.add_parser("publish", help="push a trained pipeline to the Hub", description=__doc__)
    add = parser.add_argument
    add("folder", metavar="DIR", type=Path, help="folder of a pipeline, such as the --output_dir of a training")
    add("repo", metavar="REPO", help="user/name on the Hub, or a name in your namespace; made if it is not there")
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
    parser.set_defaults(run=run)


def run(args):
    """Push and tell where to look. Raises `HfgenError` as `publish_folder` does."""
    from diffusers.utils import logging
    from huggingface_hub.utils import disable_progress_bars

    from hfgen.hub.publish import publish_folder

    logging.disable_progress_bar()
    disable_progress_bars()  # one that an error stops leaves no new line for the message
    done = publish_folder(
        args.folder,
        args.repo,
        private=args.private,
        revision=args.revision,
        create_pr=args.create_pr,
        include=args.include,
    )
    print(
        f"{done.files} files: {done.url}"
        if done.changed
        else f"{done.repo} has these {done.files} files already: {done.url}"
    )
    if done.left:
        more = len(done.left) - TOLD
        names = ", ".join(done.left[:TOLD]) + (f" and {more} more" if more > 0 else "")
        print(f"left here: {names}; name them with --include PATTERN to push them too")
