"""Fields that are flags too: each carries its help, its range, and whether a checkpoint depends on it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields

from hfgen.core.errors import HfgenError


class OutOfRange(HfgenError):
    """A number that its flag does not accept; `name` is the flag's."""

    def __init__(self, name: str, value: object, range: Range):
        super().__init__(f"{name}={value}: it must be {range.words}")
        self.name = name


@dataclass(frozen=True, kw_only=True)
class Range:
    """Values that a flag accepts, and the words for them."""

    accepts: Callable[[float], bool]
    words: str


POSITIVE = Range(accepts=lambda v: 0 < v < math.inf, words="greater than 0")
NOT_NEGATIVE = Range(accepts=lambda v: 0 <= v < math.inf, words="0 or greater")
BELOW_ONE = Range(accepts=lambda v: 0 <= v < 1, words="from 0 to below 1")
FRACTION = Range(accepts=lambda v: 0 <= v <= 1, words="from 0 to 1")
SEED = Range(accepts=lambda v: 0 <= v < 2**32, words="0 or greater and below 2**32")


def at_least(least: int) -> Range:
    """Numbers from `least` on."""
    return Range(accepts=lambda v: least <= v < math.inf, words=f"{least} or greater")


def flag(default, help: str, *, range: Range | None = None, identity: bool = True, card: str = "changed", secret=False):
    """A dataclass field that is a flag.

    Args:
        default: its value when it is not given; None: not set.
        help: what `--help` says.
        range: the numbers that it accepts; None is always accepted.
        identity: whether a checkpoint can only be continued with the same value.
        card: when a model card's command has it: "changed" from its default, "always" or "never".
        secret: left out of `repr`.
    """
    metadata = {"help": help, "range": range, "identity": identity, "card": card}
    return field(default=default, repr=not secret, metadata=metadata)


def check_ranges(config) -> None:
    """Raise `OutOfRange` for the first number of a configuration that its flag does not accept."""
    for item in fields(config):
        check_range(item, getattr(config, item.name))


def check_range(item: Field, value) -> None:
    """Raise `OutOfRange` for a number that a field does not accept; None is always accepted."""
    accepted: Range | None = item.metadata.get("range")
    if accepted is not None and value is not None and not accepted.accepts(value):
        raise OutOfRange(item.name, value, accepted)


def changed(config) -> dict[str, object]:
    """The values that differ from their defaults, by name."""
    return {item.name: value for item in fields(config) if (value := getattr(config, item.name)) != item.default}
