"""What images are asked for: of several classes or prompts, each in its turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Asked = TypeVar("Asked")


def in_turn(asked: Sequence[Asked], first: int, count: int) -> list[Asked]:
    """Of `asked` what the images `first`, `first` + 1, ... are to be: image i the one at i, modulo their number."""
    return [asked[i % len(asked)] for i in range(first, first + count)]


def classes_told(asked: Sequence[int | str] | None) -> str:
    """What is said of the classes that samples are asked for; without any asked for they are all in turn."""
    return f"classes {', '.join(map(str, asked))}" if asked else "classes in turn"
