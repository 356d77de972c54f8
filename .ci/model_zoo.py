"""Write the tables of trained models: MODEL_ZOO.md, and the short one of README.md.

`python .ci/model_zoo.py` makes both from model_cards/*/results.json, samples.json and training.json;
`python .ci/model_zoo.py --check` ends with status 1 where they are not up to date.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from hfgen.core.files import read_json, write_text
from hfgen.families.registry import family_of, get_family
from hfgen.results import EvaluationResult, LikelihoodResult, Metric, SampleResult, TrainingRecord

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- models: written by .ci/model_zoo.py -->", "<!-- end of models -->"
UNITS = ("bits/dim", "nats/image")
INTRODUCTION = """\
# Trained models

Each lies in [model_cards/](model_cards) as it would lie on the Hub, with a card that has its pictures, its data and the command
that trained it. `hfgen sample FOLDER --out grid.png` draws from any of them, `hfgen evaluate` measures it again.

This page is written by `.ci/model_zoo.py` from the results beside the models: run it instead of editing."""
LIKELIHOODS = """\
## Likelihood

Bounds on the negative log-likelihood with their standard errors, lower is better. Only rows with the same words under
"measured" can be compared; a pseudo-likelihood is no likelihood at all."""
SAMPLES = """\
## Samples

The Frechet distance (not FID), precision and recall on the features of hfgen's classifier of digits. The floor is what
training images get in place of samples, and depends on their number."""
COMMANDS = """\
## Draw from them
"""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A folder under model_cards/ and what was measured of it."""

    name: str
    title: str
    result: EvaluationResult
    training: TrainingRecord | None
    card: str

    @property
    def likelihood(self) -> LikelihoodResult | None:
        """None of a kind that has none."""
        return self.result.likelihood

    @property
    def measured(self) -> str:
        """The quantity, and the images of its evaluation, which may be another one than that of the samples."""
        if self.likelihood is None:
            return "none"
        on = self.likelihood.measured_on or self.result
        return f"{self.likelihood.quantity} ({on.split} images: {on.images:,})"

    @property
    def samples(self) -> SampleResult:
        return self.result.samples

    @property
    def command(self) -> str:
        """Draws from it, with what its card says that this needs."""
        told = re.search(rf"^hfgen sample {re.escape(self.name)} (.*)--out", self.card, re.MULTILINE)
        return f"hfgen sample model_cards/{self.name} {told[1] if told else ''}--out {self.name}.png"


def read_entries(folder: Path) -> list[Entry]:
    """All models of a folder by name."""
    return [_read_entry(path.parent) for path in sorted(folder.glob("*/results.json"))]


def _read_entry(folder: Path) -> Entry:
    result = EvaluationResult.load(folder / "results.json")
    if result.samples is None:
        result = replace(result, samples=EvaluationResult.load(folder / "samples.json").samples)
    record = folder / "training.json"
    return Entry(
        name=folder.name,
        title=family_of(read_json(folder / "model_index.json"), folder.name).title,
        result=result,
        training=TrainingRecord.load(record) if record.is_file() else None,
        card=(folder / "README.md").read_text(encoding="utf-8"),
    )


def zoo(entries: list[Entry]) -> str:
    """The whole page."""
    likelihoods = _table(
        ("model", "kind", "parameters", "measured", "bound", "importance-weighted bound", "training"),
        [
            (
                _link(e),
                e.title,
                f"{e.result.parameters:,}",
                e.measured,
                _text(_headline(e, "bound")) + _withheld(e),
                _weighted(e),
                _training(e),
            )
            for e in entries
        ],
    )
    samples = _table(
        ("model", "samples", "Frechet distance (floor)", "precision (floor)", "recall (floor)"),
        [
            (
                _link(e),
                f"{e.samples.count:,}, {e.samples.how}",
                *(_with_floor(e.samples, k) for k in ("frechet", "precision", "recall")),
            )
            for e in entries
        ],
    )
    commands = "\n".join(["```sh", *(e.command for e in entries), "```"])
    return "\n\n".join([INTRODUCTION, LIKELIHOODS, likelihoods, SAMPLES, samples, COMMANDS.rstrip(), commands]) + "\n"


def short_table(entries: list[Entry]) -> str:
    """Of the README."""
    return _table(
        ("model", "kind", "tightest bound", "Frechet distance (floor)"),
        [
            (
                f"`{e.name}`",
                e.title,
                _text(_headline(e, "importance-weighted bound") or _headline(e, "bound")) + _caveat(e) + _withheld(e),
                _with_floor(e.samples, "frechet"),
            )
            for e in entries
        ],
    )


def into_readme(readme: str, table: str) -> str:
    """The README with the table between its marks."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"README.md lacks the marks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"


def _headline(entry: Entry, role: str) -> Metric | None:
    return next((m for unit in UNITS if (m := entry.result.headline(role, unit)) is not None), None)


def _text(metric: Metric | None) -> str:
    return "" if metric is None else metric.text()


def _weighted(entry: Entry) -> str:
    text = _text(_headline(entry, "importance-weighted bound"))
    return f"{text}, k = {entry.likelihood.facts['iw_samples']:,}" if text and entry.likelihood is not None else ""


def _withheld(entry: Entry) -> str:
    """That the bound of a model of classes is the one without them; results of before do not tell, their kind does."""
    if entry.likelihood is None:
        return ""
    told_classes = entry.result.class_withheld or entry.title == get_family("class_conditional_ddpm").title
    return ", class withheld" if told_classes else ""


def _caveat(entry: Entry) -> str:
    """What makes a number of another kind than that of 8-bit pixels."""
    if entry.likelihood is None:
        return "none"
    quantity = entry.likelihood.quantity
    return "" if "8-bit" in quantity else ", no NLL" if "pseudo" in quantity else ", binarised"


def _with_floor(samples: SampleResult, key: str) -> str:
    return f"{samples.metrics[key].text()} ({samples.metrics[f'{key}_floor'].text()})"


def _training(entry: Entry) -> str:
    if entry.training is None:
        return f"[its card](model_cards/{entry.name}/README.md#training)"
    training = entry.training
    cpu = "" if training.cpu_seconds is None else f" ({training.cpu_seconds / 60:.0f} of CPU time)"
    return f"{training.seconds / 60:.0f} min{cpu}, {training.run_metadata['device']}"


def _link(entry: Entry) -> str:
    return f"[{entry.name}](model_cards/{entry.name})"


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def main(argv: list[str]) -> int:
    """Write both files, or with --check say which are not up to date."""
    entries = read_entries(ROOT / "model_cards")
    readme = ROOT / "README.md"
    wanted = {ROOT / "MODEL_ZOO.md": zoo(entries), readme: into_readme(readme.read_text(), short_table(entries))}
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text() != text]
    for path in stale:
        if "--check" in argv:
            print(f"{path.name} is not up to date: run python .ci/model_zoo.py", file=sys.stderr)
        else:
            write_text(path, wanted[path])
    return int("--check" in argv and bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
