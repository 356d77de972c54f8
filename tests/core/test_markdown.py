"""Text in Markdown, read back by a parser of CommonMark."""

import ast

import pytest
from markdown_it import MarkdownIt

from hfgen.core.markdown import code_block, escape_cell, escape_markdown, python_text

TEXTS = [
    "plain words, 3.5 % of x_0 and L_{t-1}",
    "<b>bold</b> &lt;",
    "`code` and ``more``",
    "**a** *b* _c_ __d__ a_b_c",
    "[a](b) ![c](d) <http://e>",
    "back\\slash \\* \\",
    "a | b",
    "KL(q(z|x) || p(z))",
    "# no title",
]


def words(text):
    """What a reader sees of a paragraph that has nothing but text."""
    _, inline, _ = MarkdownIt().parse(f"x {text}")
    assert {child.type for child in inline.children} <= {"text"}
    return "".join(child.content for child in inline.children).removeprefix("x ")


@pytest.mark.parametrize("text", TEXTS)
def test_text_is_seen_as_it_is(text):
    assert words(escape_markdown(text)) == text.replace("&lt;", "<")


def test_what_needs_no_escape_has_none():
    text = "sum of L_{t-1} over t = 2..T, -E log p(x_0|x_1) (not FID): 1.0 ± 0.1"
    assert escape_markdown(text) == text
    assert escape_markdown("two\n\n# lines\t") == "two # lines"


@pytest.mark.parametrize("text", TEXTS)
def test_a_cell_is_one_cell(text):
    table = f"| a | b |\n|---|---|\n| {escape_cell(text)} | end |\n"
    tokens = MarkdownIt().enable("table").parse(table)
    cells = [tokens[i + 1] for i, token in enumerate(tokens) if token.type == "td_open"]
    assert [len(cell.children) > 0 for cell in cells] == [True, True]
    assert "".join(child.content for child in cells[0].children) == text.replace("&lt;", "<")


@pytest.mark.parametrize("text", ["ls", "a\n```\n# b", "````\n`````", "~~~"])
def test_a_block_ends_at_its_end(text):
    (token,) = MarkdownIt().parse(code_block(text, "sh"))
    assert (token.type, token.info, token.content) == ("fence", "sh", text + "\n")


@pytest.mark.parametrize("text", ["a", 'a"b', "a\\", "a\nb", "back`tick", "{x}", "ünï 名", "\x00\u202e"])
def test_a_string_in_python(text):
    written = python_text(text)
    assert ast.literal_eval(f'"{written}"') == text
    assert "`" not in written
    assert "\n" not in written
