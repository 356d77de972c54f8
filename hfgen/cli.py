"""The command `hfgen`. What a command needs is imported when it runs, so that help and usage errors come at once."""

from __future__ import annotations

import argparse
import sys

from hfgen import __doc__ as DESCRIPTION
from hfgen import __version__
from hfgen.commands import card, compare, evaluate, figures, publish, sample
from hfgen.errors import HfgenError

COMMANDS = (sample, evaluate, compare, figures, card, publish)


class Parser(argparse.ArgumentParser):
    """Tells a usage error in one line, with exit status 2."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs, allow_abbrev=False)

    def error(self, message):
        self.exit(2, f"hfgen: error: {message} (see {self.prog} --help)\n")


def main(argv: list[str] | None = None) -> int:
    """Run a command line; returns the exit status: 0, 1 after an `HfgenError`, 130 when interrupted."""
    parser = Parser(prog="hfgen", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"hfgen {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    args = parser.parse_args(argv)
    try:
        args.run(args)
    except HfgenError as error:
        print(f"hfgen: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("hfgen: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
