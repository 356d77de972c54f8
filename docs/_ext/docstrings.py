"""Docstrings are plain text with code in backticks: no bar, star or underscore in them is markup."""

import re

CODE = re.compile(r"(`[^`]*`)")
MARKUP = re.compile(r"[*|]|(?<=\w)_(?=\W|$)")
SEVERAL_NAMES = re.compile(r"^ *\w+(?:, \w+)+(?=:)")
ZERO_WIDTH_SPACE = "\u200b"


def as_text(app, what, name, obj, options, lines):
    """Escape what reStructuredText would take for markup, and set lists apart."""
    parts = CODE.split("\n".join(lines))
    parts[::2] = [MARKUP.sub(r"\\\g<0>", part) for part in parts[::2]]
    lines[:], section = [], ""
    for line in "".join(parts).split("\n"):
        section = line if line.endswith(":") and not line.startswith(" ") else section
        if line.startswith("- ") and lines and lines[-1] and not lines[-1].startswith(("- ", " ")):
            lines.append("")
        if section == "Attributes:":  # of several that share a line napoleon would take all but the last for a type
            line = SEVERAL_NAMES.sub(lambda names: names[0].replace(", ", f",{ZERO_WIDTH_SPACE}"), line)
        lines.append(line)


def setup(app):
    app.connect("autodoc-process-docstring", as_text, priority=100)  # before napoleon
    return {"parallel_read_safe": True}
