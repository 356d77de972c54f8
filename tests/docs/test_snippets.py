"""The snippets of the README and of docs/: Python runs as it is printed, command lines have flags that there are."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser
from torch.distributed.run import get_args_parser

from hfgen.cli.main import COMMANDS
from hfgen.cli.parser import Parser, parse_training_config

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "MODEL_ZOO.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("[!_]*.md")),
]
BLOCK = re.compile(
    r"^(?P<skip><!-- skip: .+ -->\n)?```(?P<language>python|sh)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """Code of a page from the line after `line` on."""

    language: str
    code: str
    line: int
    skipped: bool


def blocks(page: Path, language: str) -> list[Block]:
    """Those of a language, in order."""
    text = page.read_text()
    found = [
        Block(m["language"], m["code"], text.count("\n", 0, m.start("code")), m["skip"] is not None)
        for m in BLOCK.finditer(text)
    ]
    return [block for block in found if block.language == language]


def pages_with(language: str):
    pages = [page for page in PAGES if "_build" not in page.parts and blocks(page, language)]
    return pytest.mark.parametrize("page", pages, ids=lambda page: page.relative_to(ROOT).as_posix())


@pytest.mark.slow
@pages_with("python")
def test_python_runs_as_printed(page, tmp_path, monkeypatch):
    """The blocks of a page follow each other, in an empty folder beside the trained models."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model_cards").symlink_to(ROOT / "model_cards")
    names = {"__name__": "__main__"}
    for block in blocks(page, "python"):
        if not block.skipped:
            exec(compile("\n" * block.line + block.code, page, "exec"), names)


@pages_with("sh")
def test_command_lines_are_understood(page, monkeypatch):
    """By the parsers that would read them; nothing is run."""
    monkeypatch.chdir(ROOT)
    for block in blocks(page, "sh"):
        for line in block.code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                parse(*words)


def parse(program: str, *words: str):
    """`SystemExit` or another error for a command line that its program would not take."""
    if program == "hfgen":
        parser = Parser(prog="hfgen")
        commands = parser.add_subparsers(required=True, parser_class=Parser)
        for command in COMMANDS:
            command.add_parser(commands)
        parser.parse_args(words)
    elif program == "accelerate":
        assert words[0] == "launch"
        parse_launched(launch_command_parser().parse_args(words[1:]))
    elif program == "torchrun":
        parse_launched(get_args_parser().parse_args(words))
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words) <= set(targets)
    elif program == "python" and words[0].startswith("training/train_"):
        parse_script(words[0], words[1:])
    elif program == "python":
        assert (ROOT / words[0]).is_file()
        shared = [ROOT / "benchmarks" / name for name in ("common.py", "measured.py")]
        source = "".join(path.read_text() for path in (ROOT / words[0], *shared))
        assert all(f'"{word}"' in source for word in words if word.startswith("--"))
    else:
        assert program in ("pip", "git", "hf")  # others' programs


def parse_launched(launcher):
    """What a launcher starts: a module, which must be hfgen, or a trainer."""
    if launcher.module:
        parse(launcher.training_script, *launcher.training_script_args)
    else:
        parse_script(launcher.training_script, launcher.training_script_args)


def parse_script(script: str, words):
    """A trainer's words."""
    kind = re.fullmatch(r"training/train_(\w+)\.py", script)[1]
    parse_training_config(kind, words)
