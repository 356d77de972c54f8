"""A comparison as Markdown and as an HTML page that needs no other file."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from hfgen.configs.evaluation import ComparisonConfig
from hfgen.configs.flags import changed
from hfgen.core.markdown import escape_cell

if TYPE_CHECKING:
    from hfgen.evaluation.comparison_rows import Entry

MARK = "<!-- by hfgen compare -->"
STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #222; --faint: #555; --line: #ccc; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181c; --ink: #e4e4e4; --faint: #a8adb5; --line: #3d4148; } }
body {
  font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 1.5rem auto; padding: 0 1rem;
  background: var(--paper); color: var(--ink);
}
h1, h2, p, th, td, dt, dd, figcaption { overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; }
table { border-collapse: collapse; }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .9rem .35rem 0; text-align: left; vertical-align: top; }
.grids { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 11rem), 1fr)); gap: 1rem; align-items: start; }
.wide { grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); }
figure { margin: 0; min-width: 0; }
figcaption { font-size: .9rem; }
img { width: 100%; max-width: 36rem; height: auto; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
dt { font-weight: 600; }
dd { margin: 0 0 .6rem; }
@media (max-width: 60rem) {
  table, tbody { display: block; }
  tr { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); border-bottom: 1px solid var(--line); padding: .35rem 0; }
  tr:first-child { display: none; }
  th, td { border: 0; padding: 0 .6rem .2rem 0; min-width: 0; }
  tr > th:first-child { grid-column: 1 / -1; }
  td::before { content: attr(data-of); display: block; font-size: .8rem; line-height: 1.2; color: var(--faint); }
}
@media (max-width: 40rem) {
  .terms figure { overflow-x: auto; }
  .terms img { min-width: 40rem; }
}
"""
WIDE = "grids wide"
TERMS = "grids wide terms"  # two plots side by side, whose words a phone would shrink: there they are scrolled
UNTOLD = ("dataset_name", "dataset_config_name", "train_data_dir", "cache_dir", "dataset", "options", "batch_size")
NOTES = """Bounds are upper bounds on the negative log-likelihood, over the same images for all; ± is the standard error over images.
Only rows of one kind of quantity (see "measured") can be compared: nats of binarised pixels are no bits/dim of 8-bit ones, and
a pseudo-likelihood is no likelihood at all. The bound of a model of classes is that of images whose class it is not told, which can be
compared with those of other models; the one given the class cannot. Distances of samples are those of the features of {features}; the
floor takes as many training images for samples, and for the distance to the nearest training image held-out ones."""
NEAREST = """Above samples, the first ones; below each the training image that is nearest to it in pixels (Euclidean distance){among}. A
model that repeats its training images shows the same twice."""


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


def html_page(
    rows: list[list[str]], entries: list[Entry], meanings: Mapping[str, str], config: ComparisonConfig
) -> str:
    """The table, the sample grids, the terms over t of entries and what the rows mean; pictures lie in the page."""
    first = entries[0].result
    title = f"{', '.join(entry.name for entry in entries)} on {first.dataset}"
    where = f"{_counts(entries)} of {first.dataset} (split {first.split}), seed {first.seed}"
    made_with = f"{first.run_metadata['device']}, hfgen {first.run_metadata['hfgen']}"
    drawn = [entry for entry in entries if entry.result.samples is not None and "samples" in entry.pictures]
    features = next((f"the {entry.result.samples.features}" for entry in drawn), "a classifier")
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(where)}, {escape(made_with)}.</p>",
        html_table(rows),
        f"<p>{escape(NOTES.format(features=features))}</p>",
        *_sample_figures(drawn),
    ]
    terms = [(entry.name, entry.pictures["terms"]) for entry in entries if "terms" in entry.pictures]
    if terms:
        parts += ["<h2>The bound over t</h2>", *_grids((_figure(path, name) for name, path in terms), TERMS)]
    parts += ["<h2>What the rows mean</h2>", _definitions(meanings)]
    parts += ["<h2>Command</h2>", f"<pre>{escape(command(config))}</pre>"]
    body = "\n".join(parts)
    return (
        f'<!DOCTYPE html>\n{MARK}\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _counts(entries: list[Entry]) -> str:
    """How many images the bounds are means over, and how many the samples are held against."""
    bounds = next((entry.result.images for entry in entries if entry.result.likelihood is not None), None)
    held = next((entry.result.samples.reference for entry in entries if entry.result.samples is not None), None)
    if bounds is None or held is None or bounds == held:
        return f"{entries[0].result.images:,} images"
    return f"Bounds over {bounds:,} images, samples against {held:,},"


def _sample_figures(drawn: list[Entry]) -> list[str]:
    """Real images and the samples of each model beside each other, then their nearest training images."""
    if not drawn:
        return []
    first = drawn[0].pictures
    real = [_figure(first["real"], "real images")] if "real" in first else []
    samples = [_figure(entry.pictures["samples"], f"{entry.name}: {_how(entry)}") for entry in drawn]
    near = [_figure(entry.pictures["neighbours"], entry.name) for entry in drawn if "neighbours" in entry.pictures]
    parts = ["<h2>Samples</h2>", *_grids([*real, *samples])]
    if near:
        count = next(entry.result.samples.training_images for entry in drawn if entry.result.samples)
        among = "" if count is None else f", of {count:,}"
        parts += [
            "<h2>Nearest training images</h2>",
            f"<p>{escape(NEAREST.format(among=among))}</p>",
            *_grids(near, WIDE),
        ]
    return parts


def _how(entry: Entry) -> str:
    return entry.result.samples.how if entry.result.samples else ""


def _grids(figures: Iterable[str], kind: str = "grids") -> list[str]:
    return [f'<div class="{kind}">', *figures, "</div>"]


def command(config: ComparisonConfig) -> str:
    """How to make the page again, without the dataset; of folders given by their whole path the last part."""
    models = (Path(model).name if Path(model).is_absolute() else model for model in config.models)
    evaluation = config.evaluation
    own = {k: v for k, v in changed(config).items() if k not in ("models", "evaluation")}
    told = {k: v for k, v in changed(evaluation).items() if k not in UNTOLD} | dict(evaluation.options) | own
    return shlex.join(["hfgen", "compare", *models, *(word for pair in told.items() for word in _words(*pair))])


def _words(name: str, value: object) -> list[str]:
    if value is True:
        return [f"--{name}"]
    return [f"--{name}", *map(str, value if isinstance(value, (list, tuple)) else [value])]


def _definitions(meanings: Mapping[str, str]) -> str:
    told = (f"<dt>{escape(label)}</dt><dd>{escape(meaning)}</dd>" for label, meaning in meanings.items())
    return "<dl>\n" + "\n".join(told) + "\n</dl>"


def html_table(rows: list[list[str]]) -> str:
    """The rows as an HTML table, the first as its head; each cell has the name above it, for screens too narrow for columns."""
    head, *body = rows
    lines = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"]
    lines += [
        f"<tr><th>{escape(row[0])}</th>"
        + "".join(
            f'<td data-of="{escape(name)}">{escape(cell)}</td>' for name, cell in zip(head[1:], row[1:], strict=True)
        )
        + "</tr>"
        for row in body
    ]
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def _figure(path: Path, caption: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    text = escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'
