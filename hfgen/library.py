"""hfgen from Python: load, sample, evaluate, compare, train. The command line is thin over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

from hfgen.configs.evaluation import COMPARED_SAMPLES, ComparisonConfig, EvaluationConfig
from hfgen.configs.flags import check_ranges
from hfgen.configs.sampling import SamplingConfig
from hfgen.configs.training import HubConfig, OptimizationConfig, RunConfig, TrainingConfig
from hfgen.core.errors import HfgenError
from hfgen.core.history import HISTORY_FILE, read_history
from hfgen.core.processes import on_first
from hfgen.families.model import Model
from hfgen.results import TRAINING_FILE, EvaluationResult, TrainingRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hfgen.drawing.draw import Samples
    from hfgen.evaluation.compare import Comparison

WithOptions = TypeVar("WithOptions", SamplingConfig, EvaluationConfig)


def load(path_or_repo: str | Path, revision: str | None = None, device: str | None = None) -> Model:
    """A trained model from a folder or a repository on the Hub; no code of a repository is run.

    Args:
        revision: branch, tag or commit of the repository.
        device: such as "cuda:1" or "cpu"; by default cuda, mps or cpu, the first there is.

    Raises `HfgenError` when there is none, a file is missing or broken, or it is of a kind that hfgen does not know.
    """
    from hfgen.core.device import pick_device
    from hfgen.hub.loading import load as load_from

    return load_from(path_or_repo, revision=revision, device=pick_device(device))


def sample(model: Model | str | Path, config: SamplingConfig | None = None, **changes: Any) -> Samples:
    """Draw images; `changes` are fields of `SamplingConfig`, or options of the model's family such as steps=20.

    Raises `HfgenError` for options that the family has not and for what the model cannot do.
    """
    from hfgen.sampling.sample import sample_model

    return sample_model(_model(model), _changed(config or SamplingConfig(), changes))


def evaluate(
    model: Model | str | Path, config: EvaluationConfig | None = None, *, out: Path | None = None, **changes: Any
) -> EvaluationResult:
    """Measure the likelihood of held-out images, the quality of samples, or both.

    Args:
        config: what is measured; `changes` are fields of it, or options of the family such as evaluations=30_000.
        out: where `EvaluationResult.save` will write; work that breaks off is kept beside it, and goes on from there.

    Raises `HfgenError` for options that the family has not, and for images that do not fit the model.
    """
    from hfgen.evaluation.evaluate import evaluate_model

    return evaluate_model(_model(model), _changed(config or EvaluationConfig(), changes), out)


def compare(
    models: Sequence[str | Path],
    config: EvaluationConfig | None = None,
    *,
    out: Path | None = None,
    repeat: int = 3,
    device: str | None = None,
    overwrite: bool = False,
    **changes: Any,
) -> Comparison:
    """Measure several models on the same images; arguments as in `evaluate`, and `repeat` timings of a sample.

    Options that a family has not are left out for its models. With `out` the page is written there, and work that breaks off
    goes on from there; a page or table there that hfgen did not write is replaced with `overwrite` alone.

    Raises `HfgenError` for fewer than two models, two of one name, and as `evaluate`.
    """
    from hfgen.evaluation.compare import check_page, compare_models, comparison_folder, finish_comparison

    evaluation = _changed(config or EvaluationConfig(samples=COMPARED_SAMPLES), changes)
    asked = ComparisonConfig(models=tuple(map(str, models)), evaluation=evaluation, repeat=repeat)
    check_ranges(asked)

    def load_one(place: str) -> Model:
        return load(place, device=device)

    if out is None:
        with TemporaryDirectory() as folder:
            return compare_models(asked, load_one, Path(folder) / "work")
    on_first(lambda: check_page(Path(out), overwrite))
    work = comparison_folder(Path(out))
    comparison = compare_models(asked, load_one, work)
    on_first(lambda: comparison.save(out, overwrite=overwrite))
    finish_comparison(asked, work)
    return comparison


@dataclass(frozen=True, kw_only=True)
class Training:
    """A finished training; shows its curves in a notebook."""

    output_dir: Path
    record: TrainingRecord

    @property
    def history(self) -> list[dict[str, Any]]:
        """The readings: a dict for each, with "step"."""
        return read_history(self.output_dir / HISTORY_FILE)

    def model(self, device: str | None = None) -> Model:
        """The trained model."""
        return load(self.output_dir, device=device)

    def plot(self) -> Figure:
        """The curves, as a matplotlib figure."""
        from hfgen.core.history import history_figure, terms_of

        history = self.history
        return history_figure(history, self.record.loss, terms_of(history))

    def _repr_html_(self) -> str:
        from html import escape

        record = self.record
        loss = "" if record.held_out_loss is None else f", held-out {record.loss}: {record.held_out_loss:.4f}"
        told = f"{record.steps:,} steps of {record.batch_size} images in {record.seconds:.0f} s{loss}"
        return f"<p><b>{escape(str(self.output_dir))}</b>: {escape(told)}</p>"


def train(config: TrainingConfig | str, **flags: Any) -> Training:
    """Train a model: from a configuration, or from the name of a family and flags of its trainer.

    In a notebook: `hfgen.train("ddpm", dataset_name="digits", output_dir="runs/digits")`; on several devices
    `accelerate.notebook_launcher(hfgen.train, (hfgen.training_config("ddpm", ...),))`.

    Raises `HfgenError` for input that cannot be used; nothing is written before everything has been checked.
    """
    from hfgen.trainer.train import train as run

    if isinstance(config, str):
        config = training_config(config, **flags)
    elif flags:
        raise HfgenError(f"{', '.join(flags)}: pass flags with the name of a family, or a configuration alone")
    output_dir = run(config)
    return Training(output_dir=output_dir, record=TrainingRecord.load(output_dir / TRAINING_FILE))


def training_config(family: str, **flags: Any) -> TrainingConfig:
    """The configuration of a training from the flags of its trainer, by name, such as `max_train_steps=1000`.

    Raises `HfgenError` for a family or flag that there is not, and for numbers out of range.
    """
    from hfgen.families.registry import get_family

    kind = get_family(family)
    kinds = {
        "data": kind.data_flags,
        "model": kind.model_flags,
        "optimization": OptimizationConfig,
        "run": RunConfig,
        "hub": HubConfig,
    }
    rest = {name: str(value) if isinstance(value, Path) else value for name, value in flags.items()}
    groups = {}
    for group, flags_of in kinds.items():
        own = {item.name: rest.pop(item.name) for item in fields(flags_of) if item.name in rest}
        groups[group] = flags_of(**own)
        check_ranges(groups[group])
    if rest:
        raise HfgenError(
            f"{', '.join(rest)}: the trainer of {family} has no such flag; training/train_{family}.py --help lists them"
        )
    return TrainingConfig(family=family, **groups)


def _model(model: Model | str | Path) -> Model:
    return model if isinstance(model, Model) else load(model)


def _changed(config: WithOptions, changes: Mapping[str, Any]) -> WithOptions:
    """With fields replaced, and what is no field among the options; `HfgenError` for numbers out of range."""
    own = {item.name for item in fields(config)}
    options = {**config.options, **{name: value for name, value in changes.items() if name not in own}}
    options |= changes.get("options", {})
    values = {name: value for name, value in changes.items() if name in own}
    config = replace(config, **{**values, "options": options})
    check_ranges(config)
    return config
