"""A comparison as Markdown and as an HTML page that needs no other file."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from hfgen.configs.evaluation import ComparisonConfig
from hfgen.configs.flags import changed
from hfgen.core.markdown import escape_cell

if TYPE_CHECKING:
    from hfgen.evaluation.compare import Entry

MARK = "<!-- by hfgen compare -->"
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid #ccc; padding: .35rem .9rem .35rem 0; text-align: left; vertical-align: top; }
figure { display: inline-block; margin: 1rem 1.5rem 0 0; vertical-align: top; }
img { max-width: 100%; height: auto; }
"""
UNTOLD = ("dataset_name", "dataset_config_name", "likelihood", "options", "batch_size")
NOTES = """Bounds are upper bounds on the negative log-likelihood, over the same images for all; ± is the standard error over images.
Only rows of one kind of quantity (see "measured") can be compared: nats of binarised pixels are no bits/dim of 8-bit ones, and
a pseudo-likelihood is no likelihood at all. The Frechet distance is one of the features of {features}, not the FID; the floor
takes as many training images for samples."""


def markdown_table(rows: list[list[str]]) -> str:
    """The rows as a Markdown table, the first as its head."""
    cells = [[escape_cell(cell) for cell in row] for row in rows]
    head, *body = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([head, f"|{'---|' * len(rows[0])}", *body])


def has_mark(path: Path) -> bool:
    """Whether a file is a page or table of `hfgen compare`, by the mark at the begin of the one, at the end of the other."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    return text.startswith(f"<!DOCTYPE html>\n{MARK}\n") or text.endswith(f"\n{MARK}\n")


def html_page(rows: list[list[str]], entries: list[Entry], config: ComparisonConfig) -> str:
    """The table, the sample grids and the terms over t of entries; pictures lie in the page."""
    first = entries[0].result
    title = f"{', '.join(entry.name for entry in entries)} on {first.dataset}"
    where = f"{first.images:,} images of {first.dataset} (split {first.split}), seed {first.seed}"
    made_with = f"{first.run_metadata['device']}, hfgen {first.run_metadata['hfgen']}"
    drawn = [entry for entry in entries if entry.result.samples is not None and "samples" in entry.pictures]
    features = next((f"the {entry.result.samples.features}" for entry in drawn), "a classifier")
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(where)}, {escape(made_with)}.</p>",
        html_table(rows),
        f"<p>{escape(NOTES.format(features=features))}</p>",
        "<h2>Samples</h2>",
        *(_figure(entry.pictures["samples"], f"{entry.name}: {entry.result.samples.how}") for entry in drawn),
    ]
    terms = [(entry.name, entry.pictures["terms"]) for entry in entries if "terms" in entry.pictures]
    if terms:
        parts += ["<h2>The bound over t</h2>", *(_figure(path, name) for name, path in terms)]
    parts += ["<h2>Command</h2>", f"<pre>{escape(command(config))}</pre>"]
    body = "\n".join(parts)
    return (
        f'<!DOCTYPE html>\n{MARK}\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def command(config: ComparisonConfig) -> str:
    """How to make the page again, without the dataset; of folders given by their whole path the last part."""
    models = (Path(model).name if Path(model).is_absolute() else model for model in config.models)
    evaluation = config.evaluation
    told = {k: v for k, v in changed(evaluation).items() if k not in UNTOLD} | dict(evaluation.options)
    return " ".join(["hfgen compare", *models, *(_words(name, value) for name, value in told.items())])


def _words(name: str, value: object) -> str:
    if value is True:
        return f"--{name}"
    return f"--{name} {' '.join(map(str, value)) if isinstance(value, (list, tuple)) else value}"


def html_table(rows: list[list[str]]) -> str:
    """The rows as an HTML table, the first as its head."""
    head, *body = rows
    lines = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"]
    lines += [
        f"<tr><th>{escape(row[0])}</th>" + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in body
    ]
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def _figure(path: Path, caption: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    text = escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'
