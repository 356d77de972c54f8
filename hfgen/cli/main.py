"""The command `hfgen`. What a command needs is imported when it runs, so that help and usage errors come at once."""

from __future__ import annotations

import sys
from argparse import SUPPRESS
from collections.abc import Sequence
from typing import NoReturn

from hfgen import __doc__ as DESCRIPTION
from hfgen import __version__
from hfgen.cli import card, compare, evaluate, figures, publish, sample, train_features
from hfgen.cli.parser import Parser
from hfgen.configs.flags import OutOfRange
from hfgen.core.ending import DEBUG, exit_status
from hfgen.core.processes import is_first_of_launch, together

COMMANDS = (sample, evaluate, compare, figures, card, publish, train_features)


class CommandParser(Parser):
    """Says where the help is."""

    def error(self, message: str) -> NoReturn:
        """End with a line that tells the mistake."""
        self.exit(2, f"hfgen: error: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit status, as `exit_status` does. A wrong flag ends the process with status 2."""
    parser = CommandParser(prog="hfgen", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"hfgen {__version__}")
    parser.add_argument("--debug", action="store_true", help=DEBUG)
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=CommandParser)
    for command in COMMANDS:
        command.add_parser(commands)
    for command_parser in commands.choices.values():
        command_parser.add_argument("--debug", action="store_true", default=SUPPRESS, help=DEBUG)
        command_parser.set_defaults(command_parser=command_parser)
    parser.set_defaults(shares=False)
    args = parser.parse_args(argv)

    def run() -> None:
        try:
            if args.shares:
                with together():
                    args.run(args)
            elif is_first_of_launch():
                args.run(args)
        except OutOfRange as error:
            args.command_parser.error(f"argument --{error.name}: {error}")

    return exit_status(run, program="hfgen", debug=args.debug)


if __name__ == "__main__":
    sys.exit(main())
