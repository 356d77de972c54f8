"""The directive `flags`: a table of the flags that a dataclass declares, with help and defaults from its fields."""

from dataclasses import fields
from importlib import import_module

from docutils import nodes
from docutils.parsers.rst import Directive


class Flags(Directive):
    """`{flags} module:Class`, or `{flags} family:attribute` for what a family of models adds."""

    required_arguments = 1

    def run(self):
        table = nodes.table(classes=["flags"])
        group = nodes.tgroup(cols=3)
        table += group
        for width in (25, 15, 60):
            group += nodes.colspec(colwidth=width)
        head, body = nodes.thead(), nodes.tbody()
        group += [head, body]
        head += _row(*(nodes.Text(word) for word in ("flag", "default", "what it is")))
        for item in fields(_declared(self.arguments[0])):
            if "help" in item.metadata:
                default = "" if item.default is None else str(item.default)
                flag = nodes.literal(text=f"--{item.name}")
                body += _row(
                    flag, nodes.literal(text=default) if default else nodes.Text(""), nodes.Text(item.metadata["help"])
                )
        return [table]


def _declared(place):
    owner, _, name = place.partition(":")
    if "." in owner:
        return getattr(import_module(owner), name)
    from hfgen.families.registry import get_family

    return getattr(get_family(owner), name)


def _row(*cells):
    row = nodes.row()
    for cell in cells:
        entry = nodes.entry()
        entry += nodes.paragraph("", "", cell)
        row += entry
    return row


def setup(app):
    app.add_directive("flags", Flags)
    return {"parallel_read_safe": True}
