#!/usr/bin/env python3
"""Keep copies of code in step with their originals: say which are stale, or rewrite them with `--fix`.

Files that ship to the Hub import nothing of this project, so that they hold copies of what they share. Right above a function,
class, method or assignment stands

    # Copied from hfgen.pipelines.denoising.denoise

and what follows must be that original, line by line. The same files are part of the repositories under `model_cards/`: each
file that a `model_index.json` there names is, byte for byte, the one of its name in the source.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
import textwrap
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# where packages lie that do not lie where their names say
FOLDERS = {"hfgen.pipelines": "pipelines"}
SOURCES = ("hfgen", "pipelines")
MARK = re.compile(r"^ *# Copied from (\S.*)$", re.MULTILINE)
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign


class NotFoundError(Exception):
    """A mark that leads nowhere."""


def definitions(body: list[ast.stmt], prefix: str = "") -> dict[str, Definition]:
    """What a module defines, by its name in it; methods as Class.method."""
    found: dict[str, Definition] = {}
    for node in body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {prefix + target.id: node for target in targets if isinstance(target, ast.Name)}
        elif isinstance(node, Definition):
            found[prefix + node.name] = node
        if isinstance(node, ast.ClassDef):
            found |= definitions(node.body, f"{prefix}{node.name}.")
    return found


@cache
def module(text: str) -> dict[str, Definition]:
    """What a source text defines; the same file is asked for every mark that leads to it."""
    return definitions(ast.parse(text).body)


def first_line(node: Definition) -> int:
    """Where a definition begins, counted from 1: at its first decorator."""
    return min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])


def lines_of(text: str, node: Definition) -> str:
    """The source of a definition, indented as at the top of a file."""
    return textwrap.dedent("".join(text.splitlines(keepends=True)[first_line(node) - 1 : node.end_lineno]))


def original(path: str) -> str:
    """The source of what a dotted path names."""
    parts = path.split(".")
    for split in range(len(parts) - 1, 0, -1):
        place, name = ".".join(parts[:split]), ".".join(parts[split:])
        for package, folder in FOLDERS.items():
            if place.startswith(f"{package}."):
                place = folder + place.removeprefix(package)
        file = ROOT / f"{place.replace('.', '/')}.py"
        if file.is_file():
            text = file.read_text()
            node = module(text).get(name)
            if node is not None:
                return lines_of(text, node)
    raise NotFoundError(f"there is no {path}")


def in_step(text: str) -> tuple[str, list[tuple[int, str]]]:
    """A file's text with its copies as their originals are, and the line and the path of each that was not."""
    stale = []
    # from the last one on: what is rewritten moves the lines below it
    for mark in reversed(list(MARK.finditer(text))):
        line = text.count("\n", 0, mark.start()) + 1
        here = [node for node in module(text).values() if first_line(node) == line + 1]
        if not here:
            raise NotFoundError(f"line {line}: nothing is defined right below the mark")
        wanted = original(mark[1])
        if wanted != lines_of(text, here[0]):
            stale.append((line, mark[1]))
            lines = text.splitlines(keepends=True)
            indent = " " * here[0].col_offset
            lines[line : here[0].end_lineno] = [textwrap.indent(wanted, indent)]
            text = "".join(lines)
    return text, stale[::-1]


def check_marks(fix: bool) -> list[str]:
    """A line for each marked copy in the source that is not its original."""
    problems = []
    for file in sorted(path for folder in SOURCES for path in (ROOT / folder).rglob("*.py")):
        name, text = file.relative_to(ROOT), file.read_text()
        try:
            renewed, stale = in_step(text)
        except NotFoundError as error:
            problems.append(f"{name}: {error}")
            continue
        if fix and stale:
            file.write_text(renewed)
        elif stale:
            problems += [f"{name}:{line}: is not {path} any more" for line, path in stale]
    return problems


def shipped_files(folder: Path) -> list[Path]:
    """The files of code that a folder's `model_index.json` names."""
    index = json.loads((folder / "model_index.json").read_text())
    named = index.get("_class_name")
    files = [folder / f"{named[0]}.py"] if isinstance(named, list) else []
    for name, value in index.items():
        if isinstance(value, list) and (folder / name).is_dir() and value[0] not in ("diffusers", "transformers"):
            files.append(folder / name / f"{value[0]}.py")
    return files


def check_cards(fix: bool) -> list[str]:
    """A line for each file of code under `model_cards/` that is not its source, or that should not be there."""
    problems = []
    sources = {path.name: path for folder in SOURCES for path in (ROOT / folder).rglob("*_hfgen_*.py")}
    cards = ROOT / "model_cards"
    shipped = [file for index in sorted(cards.glob("*/model_index.json")) for file in shipped_files(index.parent)]
    for file in shipped:
        source, name = sources.get(file.name), file.relative_to(ROOT)
        if source is None:
            problems.append(f"{name}: there is no source of that name")
        elif not file.is_file() or file.read_bytes() != source.read_bytes():
            if fix:
                file.write_bytes(source.read_bytes())
            else:
                problems.append(f"{name}: is not {source.relative_to(ROOT)} any more")
    problems += [
        f"{file.relative_to(ROOT)}: no model_index.json names it, remove it"
        for file in sorted(set(cards.rglob("*.py")) - set(shipped))
    ]
    return problems


def main(argv: list[str] | None = None) -> int:
    """Exit status 1 when something is stale, or with `--fix` cannot be mended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fix", action="store_true", help="rewrite what is stale")
    fix = parser.parse_args(argv).fix
    # the copies in the source first: the files under model_cards are copies of those
    problems = check_marks(fix) + check_cards(fix)
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems and not fix:
        print("run make fix-copies", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
