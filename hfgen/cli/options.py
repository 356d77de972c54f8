"""Flags that the families bring to the commands."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from hfgen.cli.parser import Parser, flags_of
from hfgen.configs.flags import check_range
from hfgen.families.registry import families

DEVICE = "such as cuda:1 or cpu (default: cuda, mps or cpu, the first there is)"
REVISION = "branch, tag or commit of the repository"


def add_options(parser: Parser, *attributes: str) -> None:
    """Add the flags of every family's dataclasses of these attributes, such as "sampling_options"."""
    for family in families():
        for attribute in attributes:
            parser.add_flags(getattr(family, attribute), only_given=True)


def take_options(args: Namespace, *attributes: str) -> dict[str, Any]:
    """The values of those flags that were given, which leave the namespace; `OutOfRange` for a number that one does not accept."""
    values, taken = vars(args), {}
    for item in (item for family in families() for kind in attributes for item in flags_of(getattr(family, kind))):
        if item.name in values:
            taken[item.name] = values.pop(item.name)
            check_range(item, taken[item.name])
    return taken
