"""Text out of files in Markdown, where it must stay text."""

from __future__ import annotations

import re

# what begins HTML, code, emphasis or a link; an underscore within a word begins nothing
ACTIVE = re.compile(r"[\\`*\[\]<>]|(?<![^\W_])_")


def escape_markdown(text: object) -> str:
    """A value as text of a single line."""
    return ACTIVE.sub(r"\\\g<0>", " ".join(str(text).split()))


def escape_cell(text: object) -> str:
    """A value as the cell of a table."""
    return escape_markdown(text).replace("|", r"\|")


def code_block(text: str, language: str) -> str:
    """A fenced block that no line of `text` closes."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def python_text(text: str) -> str:
    """A string as it stands between double quotes in Python code, also in code within a line of Markdown."""
    return "".join(_in_quotes(character) for character in text)


def _in_quotes(character: str) -> str:
    if character in ('"', "\\"):
        return f"\\{character}"
    return character if character.isprintable() and character != "`" else f"\\U{ord(character):08x}"
