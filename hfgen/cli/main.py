"""The command `hfgen`. What a command needs is imported when it runs, so that help and usage errors come at once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

from hfgen import __doc__ as DESCRIPTION
from hfgen import __version__
from hfgen.cli import card, compare, evaluate, figures, publish, sample
from hfgen.cli.parser import Parser
from hfgen.configs.flags import OutOfRange
from hfgen.core.errors import HfgenError

COMMANDS = (sample, evaluate, compare, figures, card, publish)


class CommandParser(Parser):
    """Says where the help is."""

    def error(self, message: str) -> NoReturn:
        """End with a line that tells the mistake."""
        self.exit(2, f"hfgen: error: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit status: 0, 1 after an `HfgenError`, 130 when interrupted.

    A wrong flag ends the process with status 2.
    """
    parser = CommandParser(prog="hfgen", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"hfgen {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=CommandParser)
    for command in COMMANDS:
        command.add_parser(commands)
    args = parser.parse_args(argv)
    try:
        args.run(args)
    except OutOfRange as error:
        parser.error(f"argument --{error.name}: {error}")
    except HfgenError as error:
        print(f"hfgen: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("hfgen: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
