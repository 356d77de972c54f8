"""From words of the command line to configurations: one parser for the training scripts and the commands of `hfgen`.

Flags look as those of transformers' `HfArgumentParser`, whose import would take longer than many commands.
"""

from __future__ import annotations

import sys
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, HelpFormatter, Namespace
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import Field, fields
from pathlib import Path
from textwrap import wrap
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

import yaml

from hfgen.configs.flags import check_ranges
from hfgen.configs.training import HubConfig, OptimizationConfig, RunConfig, TrainingConfig
from hfgen.core.ending import DEBUG, is_first_to_fail
from hfgen.core.errors import HfgenError, one_line
from hfgen.families.registry import get_family

YAML_NULLS = ("", "~", "null")
TRUE, FALSE = ("yes", "true", "t", "y", "1"), ("no", "false", "f", "n", "0")
LARGEST = 2**63 - 1
METAVARS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}


class _WholeNames(HelpFormatter):
    """Breaks lines between words alone: names such as mnist-50d can then be copied and searched for."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return wrap(" ".join(text.split()), width, break_on_hyphens=False)


class Parser(ArgumentParser):
    """Tells a usage error in one line, with exit status 2; flags are never abbreviated."""

    def __init__(self, **kwargs: Any):
        super().__init__(**{"allow_abbrev": False, "formatter_class": _WholeNames, **kwargs})

    def error(self, message: str) -> NoReturn:
        """End with a line that tells the mistake."""
        self.exit(2, f"{self.prog}: error: {message}; see --help\n")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """End; of several processes of a launch one says why."""
        super().exit(status, message if status == 0 or is_first_to_fail() else None)

    def add_flags(self, kind: type, *, only_given: bool = False) -> None:
        """Add the fields of a dataclass that have a help, as `hfgen.configs.flags.flag` makes them.

        Args:
            kind: its `_argument_group_name`, if it has one, stands above its flags.
            only_given: leave a flag that the user has not given out of the parsed namespace, and one that another
                dataclass has added alone.
        """
        title = getattr(kind, "_argument_group_name", None)
        group = self if title is None else self.add_argument_group(title)
        types = get_type_hints(kind)
        for item in flags_of(kind):
            if not (only_given and f"--{item.name}" in self._option_string_actions):
                _add_flag(group, item, types[item.name], only_given)


def flags_of(kind: type) -> list[Field]:
    """The fields of a dataclass that are flags."""
    return [item for item in fields(kind) if "help" in item.metadata]


def parse_into(parser: Parser, types: Sequence[type], argv: Sequence[str] | None = None) -> tuple[Any, ...]:
    """Parse words into an instance of each dataclass, followed by the namespace of what else the parser knows.

    Raises `HfgenError` for numbers out of range. A wrong flag ends the process with status 2.
    """
    for kind in types:
        parser.add_flags(kind)
    namespace = parser.parse_args(argv)
    return *(taken_from(namespace, kind) for kind in types), namespace


def taken_from(namespace: Namespace, kind: type) -> Any:
    """An instance of a dataclass of flags, whose values leave the namespace; `HfgenError` for numbers out of range."""
    values = vars(namespace)
    taken = {item.name: values.pop(item.name) for item in flags_of(kind) if item.name in values}
    config = kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in taken.items()})
    check_ranges(config)
    return config


def parse_training_config(family_name: str, argv: Sequence[str] | None = None) -> TrainingConfig:
    """A training's configuration: defaults, overridden by the YAML of --config, overridden by flags.

    Raises `HfgenError` for a YAML file that cannot be read, one with unknown keys, and numbers out of range. A wrong flag
    ends the process with status 2.
    """
    family = get_family(family_name)
    kinds = (family.data_flags, family.model_flags, OptimizationConfig, RunConfig, HubConfig)
    parser = Parser(
        usage="%(prog)s [--config FILE.yaml] [--FLAG VALUE ...]",
        description=f"Train a {family.title} on images, into the folder {family_name}-model if --output_dir names no other.",
    )
    parser.add_argument("--debug", action="store_true", help=DEBUG)
    argv = sys.argv[1:] if argv is None else list(argv)
    path = _config_file(argv)
    if path is not None:
        argv = [*_yaml_flags(path, kinds), *argv]
    data, model, optimization, run, hub, _ = parse_into(parser, kinds, argv)
    return TrainingConfig(family=family_name, data=data, model=model, optimization=optimization, run=run, hub=hub)


def _config_file(argv: list[str]) -> str | None:
    """What --config names, if anything; a mistake is left to the parser of all flags."""
    parser = Parser(add_help=False)
    parser.add_argument("--config", nargs="?")
    return parser.parse_known_args(argv)[0].config


def _yaml_flags(path: str, kinds: Iterable[type]) -> list[str]:
    """The YAML file as command-line words, so that argparse checks its values as it does flags."""
    try:
        # plain text for every value: YAML's own types would turn `mixed_precision: no` into False
        values = yaml.load(Path(path).read_text(), Loader=yaml.BaseLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise HfgenError(f"config={path!r} cannot be read ({one_line(error)}): pass a YAML file of flags") from error
    if not isinstance(values, Mapping):
        raise HfgenError(f"config={path!r} holds no flags: write lines such as `learning_rate: 1.0e-4`")
    known = {item.name for kind in kinds for item in flags_of(kind)} - {"config"}
    unknown = [str(key) for key in values if key not in known]
    if unknown:
        raise HfgenError(f"config={path!r} has unknown keys: {', '.join(unknown)}; --help lists the flags")
    nested = [key for key, value in values.items() if not isinstance(value, str)]
    if nested:
        raise HfgenError(f"config={path!r}: {', '.join(nested)} is no single value; write one value a key")
    return [f"--{key}={value}" for key, value in values.items() if value not in YAML_NULLS]


def _add_flag(group: Any, item: Field, hint: Any, only_given: bool) -> None:
    """Add --name, --na-me for a name of several words, and --no_name for one that is on by default."""
    default = SUPPRESS if only_given else item.default
    kind, shape = _type(hint)
    told = item.metadata["help"] if item.default is None else f"{item.metadata['help']} (default: {item.default})"
    told = told.replace("%", "%%")
    group.add_argument(*_spellings(item.name), dest=item.name, default=default, type=kind, help=told, **shape)
    if item.default is True:
        off = {"action": "store_const", "const": False, "default": default}
        group.add_argument(*_spellings(f"no_{item.name}"), dest=item.name, help=f"turn --{item.name} off", **off)


def _spellings(name: str) -> list[str]:
    return list(dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"]))


def _type(hint: Any) -> tuple[Any, dict[str, Any]]:
    """What turns a word into a value of a field's type, and argparse's arguments beside it."""
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (part for part in get_args(hint) if part is not NoneType)
    if get_origin(hint) is Literal:
        return str, {"choices": get_args(hint)}
    if get_origin(hint) is tuple:
        kind = get_args(hint)[0]
        return kind, {"nargs": "+", "metavar": METAVARS[kind]}
    if hint is int:
        return _integer, {"metavar": METAVARS[int]}
    if hint is bool:
        return _boolean, {"nargs": "?", "const": True, "metavar": "BOOL"}
    return hint, {"metavar": METAVARS[hint]}


def _integer(word: str) -> int:
    """A number that every library below can hold; argparse's own words for one that is none."""
    try:
        value = int(word)
    except ValueError:
        raise ArgumentTypeError(f"invalid int value: {one_line(word, 40)!r}") from None
    if abs(value) > LARGEST:
        raise ArgumentTypeError(f"{one_line(word, 40)} is more than any number here may be")
    return value


def _boolean(word: str) -> bool:
    if word.lower() not in TRUE + FALSE:
        raise ArgumentTypeError(f"{word!r} is neither true nor false")
    return word.lower() in TRUE
