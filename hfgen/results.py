"""What trainings and evaluations found, as objects that read and write their JSON files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfgen.core.errors import HfgenError
from hfgen.core.files import read_json, write_json

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure

RESULTS_FILE, TRAINING_FILE = "results.json", "training.json"
SCHEMA_VERSION = 2
MOST_DIGITS = 8
WITHHELD = "withheld"
# keys of version 1, whose files named the kind alone and had facts of a kind beside the others
FAMILY_OF_KIND = {"VAE": "vae", "diffusion": "ddpm"}
FACTS_OF_VERSION_1 = ("T", "prediction_type", "variance_type", "evaluations", "exact", "iw_samples")
ROLES_OF_VERSION_1 = {
    "vlb_total": "bound",
    "negative_elbo": "bound",
    "negative_iw_bound": "importance-weighted bound",
}

# fields of parts that files of before lack
LATER_FIELDS = ("num_features", "training_images", "measured_on")
PARTS = ("likelihood", "samples", "synthetic")
# of results, which files of before lack
LATER_PARTS = ("synthetic", "evaluations_per_sample")

# what a file must hold where a field is declared so
KINDS: Mapping[str, Any] = {
    "str": str,
    "int": int,
    "float": (int, float),
    "bool": bool,
    "Mapping[str, str]": Mapping,
    "Mapping[str, Any]": Mapping,
    "Mapping[str, float]": Mapping,
    "Mapping[str, list]": Mapping,
}


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A measured number.

    Attributes:
        mean, standard_error: in `unit`; the error is None where there is none to tell.
        unit: "nats/image", "bits/dim" or "".
        role: of a likelihood's headline: "log-likelihood", "bound" or "importance-weighted bound"; else None.
    """

    name: str
    mean: float
    standard_error: float | None = None
    unit: str = ""
    role: str | None = None

    def text(self, digits: int | None = None) -> str:
        """Mean, error and unit; by default two digits of nats and three of all else, or those that the error leaves."""
        error = self.standard_error
        if digits is None:
            digits = 2 if self.unit.startswith("nats") else max(3, self._digits_of_error())
        spread = "" if error is None or math.isnan(error) else f" ± {error:.{digits}f}"
        return f"{self.mean:.{digits}f}{spread} {self.unit}".rstrip()

    def _digits_of_error(self) -> int:
        """So many that a small error has one digit; of a unit the digits are the usual ones."""
        error = self.standard_error
        if self.unit or error is None or math.isnan(error) or error <= 0:
            return 0
        return min(MOST_DIGITS, -math.floor(math.log10(error)))


@dataclass(frozen=True, kw_only=True)
class BoundTerms:
    """Terms of a bound over t = 1..T, None where nothing was drawn; `draws` are the network evaluations of each."""

    mean: tuple[float | None, ...]
    standard_error: tuple[float | None, ...]
    draws: tuple[int, ...]
    unit: str = "bits/dim"


@dataclass(frozen=True, kw_only=True)
class MeasuredOn:
    """On what a part was measured that is older than the rest of the results; names as in `EvaluationResult`."""

    dataset: str
    dataset_fingerprint: str
    split: str
    images: int
    seed: int
    run_metadata: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class LikelihoodResult:
    """A likelihood, or bounds on one.

    Attributes:
        quantity: what is measured, such as "log-likelihood of 8-bit pixels": only equal ones can be compared.
        likelihood: p(x | ...) of the last step.
        how: with what effort, for tables.
        facts: what else is to be known, of this family, as JSON values.
        metrics: by key, in nats per image and where it makes sense in bits/dim.
        seconds: that it took.
        measured_on: where that is not what the results tell of all.
    """

    quantity: str
    likelihood: str
    metrics: Mapping[str, Metric]
    seconds: float
    how: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    terms: BoundTerms | None = None
    measured_on: MeasuredOn | None = None


@dataclass(frozen=True, kw_only=True)
class SampleResult:
    """The quality of samples.

    Attributes:
        count, reference: samples, and real images that they were held against.
        how: by which sampler.
        features: of which network.
        classes: "names", and frequencies of "samples" and "reference"; empty for a network without classes.
        metrics: by key; those that end in "_floor" are of real images in place of the samples.
        num_features: of the network; None in files of before it was told.
        training_images: among how many the nearest neighbours were sought; None where they were not.
        measured_on: where that is not what the results tell of all.
    """

    count: int
    reference: int
    how: str
    features: str
    classes: Mapping[str, list]
    metrics: Mapping[str, Metric]
    seconds_sampling: float
    seconds_measuring: float
    num_features: int | None = None
    training_images: int | None = None
    measured_on: MeasuredOn | None = None


@dataclass(frozen=True, kw_only=True)
class SyntheticResult:
    """A classifier that was trained on samples of a class-conditional model alone.

    Attributes:
        count: samples that it was trained on.
        reference: real images that it was measured on.
        how: by which sampler they were drawn.
        metrics: by key; the one that ends in "_floor" is of as many real images in place of the samples.
        measured_on: where that is not what the results tell of all.
    """

    count: int
    reference: int
    how: str
    metrics: Mapping[str, Metric]
    seconds_sampling: float
    seconds_measuring: float
    measured_on: MeasuredOn | None = None


@dataclass(frozen=True, kw_only=True)
class SamplePictures:
    """What there is to see of samples, uint8 (N, C, H, W).

    Attributes:
        samples: the first ones.
        labels: the names of the classes that they were asked for, None where there are none.
        real: images that they are held against.
        nearest: of each of the first samples the training image that is nearest in pixels.
    """

    samples: torch.Tensor = field(repr=False)
    labels: tuple[str, ...] | None
    real: torch.Tensor = field(repr=False)
    nearest: torch.Tensor = field(repr=False)


Part = LikelihoodResult | SampleResult | SyntheticResult


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """All that was measured of a model.

    Attributes:
        family, kind: the kind of model, by its name in the registry and in words.
        parameters: of its network.
        dataset, dataset_fingerprint, split, images: on which images; of a local dataset its folder's name.
        run_metadata: device and versions.
        model_digest: of the weights and configs that were measured; None in files of before it was told.
        likelihood, samples, synthetic: the parts, None where one was not asked for.
        seconds_per_sample: by the number of samples at once, as `hfgen compare` measures it.
        evaluations_per_sample: of the network, as `hfgen compare` counts them.
        pictures: what there is to see of the samples; not in the file.
    """

    family: str
    kind: str
    parameters: int
    dataset: str
    dataset_fingerprint: str
    split: str
    images: int
    seed: int
    run_metadata: Mapping[str, str]
    likelihood: LikelihoodResult | None = None
    samples: SampleResult | None = None
    seconds_per_sample: Mapping[str, float] | None = None
    model_digest: str | None = None
    synthetic: SyntheticResult | None = None
    evaluations_per_sample: float | None = None
    pictures: SamplePictures | None = field(default=None, compare=False, repr=False)

    @property
    def metrics(self) -> dict[str, Metric]:
        """Those of all parts, by key."""
        parts = (self.likelihood, self.samples, self.synthetic)
        return {key: metric for part in parts if part is not None for key, metric in part.metrics.items()}

    def headline(self, role: str, unit: str) -> Metric | None:
        """The metric of that role and unit, if there is one."""
        return next((m for m in self.metrics.values() if m.role == role and m.unit == unit), None)

    @property
    def class_withheld(self) -> bool:
        """Whether the model is told classes, and its bound is that of images whose class it was not told."""
        return self.likelihood is not None and self.likelihood.facts.get("class") == WITHHELD

    def table(self) -> str:
        """For a terminal."""
        lines = [
            f"{self.kind}, {self.parameters:,} parameters, {self.images} images of {self.dataset}/{self.split}",
        ]
        if self.likelihood is not None:
            part = self.likelihood
            effort = f", {part.how}" if part.how else ""
            lines.append(f"{part.quantity} ({part.likelihood}), {part.seconds:.0f} s{effort}{_earlier(part)}")
        if self.samples is not None:
            drawn = self.samples
            lines.append(
                f"{drawn.count} samples ({drawn.how}, {drawn.seconds_sampling:.0f} s) against {drawn.reference} images, "
                f"features of the {drawn.features}{_earlier(drawn)}"
            )
        if self.synthetic is not None:
            told = self.synthetic
            lines.append(
                f"a classifier of {told.count} samples ({told.how}, {told.seconds_sampling:.0f} s) alone, measured on "
                f"{told.reference} images{_earlier(told)}"
            )
        width = max((len(m.name) for m in self.metrics.values()), default=0)
        return "\n".join([*lines, *(_row(m, width) for m in self.metrics.values())])

    def _repr_html_(self) -> str:
        from html import escape

        head, *_ = self.table().split("\n")
        rows = "".join(f"<tr><td>{escape(m.name)}</td><td>{m.text()}</td></tr>" for m in self.metrics.values())
        return f"<p>{escape(head)}</p><table>{rows}</table>"

    def plot(self, path: str | Path | None = None) -> Figure:
        """The terms of the bound over t; returns a matplotlib figure, and writes it as PNG to `path`.

        Raises `HfgenError` where the likelihood has no terms over t.
        """
        from hfgen.core.plotting import save_figure
        from hfgen.core.terms_figure import terms_figure

        terms = None if self.likelihood is None else self.likelihood.terms
        if terms is None:
            raise HfgenError(
                f"these results of a {self.kind} have no terms over t: evaluate the bound of a diffusion model"
            )
        total = self.headline("bound", terms.unit)
        bound = None if total is None else (total.mean, total.standard_error)
        figure = terms_figure(terms.mean, terms.standard_error, unit=terms.unit, bound=bound)
        if path is not None:
            save_figure(figure, Path(path))
        return figure

    def to_json(self) -> dict[str, Any]:
        """JSON values; `from_json` reads them."""
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "pictures"}
        for name in PARTS:
            part = values[name]
            values[name] = None if part is None else {k: v for k, v in asdict(part).items() if not _is_default(part, k)}
        for name in LATER_PARTS:
            if values[name] is None:
                del values[name]
        return {"schema_version": SCHEMA_VERSION, **values}

    @classmethod
    def from_json(cls, value: Any, place: str = "results") -> EvaluationResult:
        """Of this version's values, or those of version 1; `HfgenError` names `place` and the key that is not as it should be."""
        value = _object(value, place)
        version = value.get("schema_version", 1)
        if version not in (1, SCHEMA_VERSION):
            raise HfgenError(
                f"{place} has schema_version {version!r}: this hfgen reads up to {SCHEMA_VERSION}; update hfgen"
            )
        value = _from_version_1(value, place) if version == 1 else dict(value)
        value.pop("schema_version", None)
        for name, read in (("likelihood", _likelihood), ("samples", _samples), ("synthetic", _synthetic)):
            value[name] = None if value.get(name) is None else read(value[name], f"{place}: {name}")
        return _made(cls, value, place)

    def save(self, path: str | Path) -> None:
        """Write the JSON file, in one step; `HfgenError` when it cannot be written."""
        write_json(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> EvaluationResult:
        """Read a JSON file; `HfgenError` for one that cannot be read or is none of results."""
        return cls.from_json(read_json(Path(path)), str(path))

    def measured_on(self, part: Part) -> MeasuredOn:
        """On what a part of these results was measured."""
        own = MeasuredOn(**{item.name: getattr(self, item.name) for item in fields(MeasuredOn)})
        return part.measured_on or own

    def same_model(self, other: EvaluationResult) -> bool:
        """Whether both are of the same weights and configs, which older files do not tell."""
        return self.model_digest is not None and self.model_digest == other.model_digest

    def with_earlier(self, earlier: EvaluationResult) -> EvaluationResult:
        """These results with those parts of earlier ones that they lack, each of which keeps on what it was measured.

        Results of other weights or configs are not the model's: of them nothing is kept.
        """
        if not self.same_model(earlier):
            return self
        kept: dict[str, Any] = {}
        for name in PARTS:
            part = getattr(earlier, name)
            if part is not None and getattr(self, name) is None:
                measured_on = earlier.measured_on(part)
                kept[name] = replace(part, measured_on=None if measured_on == self.measured_on(part) else measured_on)
        for name in ("seconds_per_sample", "evaluations_per_sample"):
            if getattr(self, name) is None:
                kept[name] = getattr(earlier, name)
        return replace(self, **kept)


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    """What a finished training tells of itself, in training.json; no path, name or token is in it.

    Attributes:
        family: the kind of model; None in files of before it was told.
        loss: what `held_out_loss` is, with its unit.
        held_out: in words, where the held-out images come from.
        data: an `hfgen.data.origin.Origin` as JSON values; None in files of before it was told.
        cpu_seconds: of all threads of all processes; None on a GPU, and in files of before it was told.
        run_metadata: device and versions.
    """

    command: str
    dataset: str | None
    train_split: str
    images: int
    image_shape: tuple[int, ...]
    held_out: str
    steps: int
    epochs: float
    batch_size: int
    learning_rate: float
    averaged_weights: bool
    loss: str
    held_out_loss: float | None
    seconds: float
    processes: int
    mixed_precision: str
    run_metadata: Mapping[str, str]
    family: str | None = None
    data: Mapping[str, Any] | None = None
    cpu_seconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON values; `from_json` reads them."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, value: Any, place: str = "training") -> TrainingRecord:
        """As `EvaluationResult.from_json`."""
        value = dict(_object(value, place))
        if value.pop("schema_version", 1) == 1 and "environment" in value:
            value["run_metadata"] = value.pop("environment")
        if "image_shape" in value:
            value["image_shape"] = tuple(_checked(value["image_shape"], (list, tuple), place, "image_shape"))
        return _made(cls, value, place)

    def save(self, path: str | Path) -> None:
        """Write the JSON file, in one step; `HfgenError` when it cannot be written."""
        write_json(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> TrainingRecord:
        """Read a JSON file; `HfgenError` for one that cannot be read or is no training's."""
        return cls.from_json(read_json(Path(path)), str(path))


def _row(metric: Metric, width: int) -> str:
    error = metric.standard_error
    spread = "" if error is None or math.isnan(error) else f"  +- {error:.4f}"
    return f"{metric.name:<{width}}  {metric.mean:>10.4f}{spread}  {metric.unit}".rstrip()


def _earlier(part: Part) -> str:
    """On what a part was measured that is kept from earlier."""
    on = part.measured_on
    return "" if on is None else f"; measured before, on {on.images} images of {on.dataset}/{on.split}, seed {on.seed}"


def _is_default(part: Any, name: str) -> bool:
    """Whether a field of later versions says nothing, and is left out of the file."""
    return name in LATER_FIELDS and getattr(part, name) is None


def _from_version_1(value: Mapping[str, Any], place: str) -> dict[str, Any]:
    """As a file of the present version has it."""
    value = dict(value)
    metrics = dict(_object(value.pop("metrics", None), f"{place}: metrics"))
    samples = value.pop("samples", None)
    kind = value.get("kind")
    value["family"] = FAMILY_OF_KIND.get(kind, str(kind)) if isinstance(kind, str) else kind
    value["run_metadata"] = value.pop("environment", None)
    of_likelihood = {key: metric for key, metric in metrics.items() if _is_of_likelihood(key)}
    for key, metric in of_likelihood.items():
        role = ROLES_OF_VERSION_1.get(key.removesuffix("_bits_per_dim"))
        of_likelihood[key] = {**_object(metric, f"{place}: metrics: {key}"), "role": role}
    facts = {key: value.pop(key) for key in FACTS_OF_VERSION_1 if key in value}
    part = {key: value.pop(key, None) for key in ("quantity", "likelihood", "seconds", "terms")}
    value["likelihood"] = None
    if part["quantity"] is not None:
        value["likelihood"] = {**part, "metrics": of_likelihood, "facts": facts, "how": _effort(facts)}
    if samples is not None:
        of_samples = {key: metric for key, metric in metrics.items() if not _is_of_likelihood(key)}
        value["samples"] = {**_object(samples, f"{place}: samples"), "metrics": of_samples}
    for key in ("training", "settings"):  # a comparison kept them in the same file
        value.pop(key, None)
    return value


def _is_of_likelihood(key: str) -> bool:
    return key.startswith(("vlb_", "negative_")) or key in ("reconstruction", "kl")


def _effort(facts: Mapping[str, Any]) -> str:
    if "evaluations" not in facts:
        return ""
    return f"{facts['evaluations']:,} network evaluations, {'every' if facts.get('exact') else 'sampled'} t"


def _likelihood(value: Any, place: str) -> LikelihoodResult:
    value = dict(_object(value, place))
    value["metrics"] = _metrics(value.get("metrics"), f"{place}: metrics")
    if value.get("terms") is not None:
        terms = dict(_object(value["terms"], f"{place}: terms"))
        for name in ("mean", "standard_error", "draws"):
            terms[name] = tuple(_checked(terms.get(name), (list, tuple), f"{place}: terms", name))
        value["terms"] = _made(BoundTerms, terms, f"{place}: terms")
    return _made(LikelihoodResult, _with_measured_on(value, place), place)


def _samples(value: Any, place: str) -> SampleResult:
    value = dict(_object(value, place))
    value["metrics"] = _metrics(value.get("metrics"), f"{place}: metrics")
    return _made(SampleResult, _with_measured_on(value, place), place)


def _synthetic(value: Any, place: str) -> SyntheticResult:
    value = dict(_object(value, place))
    value["metrics"] = _metrics(value.get("metrics"), f"{place}: metrics")
    return _made(SyntheticResult, _with_measured_on(value, place), place)


def _with_measured_on(value: dict[str, Any], place: str) -> dict[str, Any]:
    if value.get("measured_on") is not None:
        place = f"{place}: measured_on"
        value["measured_on"] = _made(MeasuredOn, dict(_object(value["measured_on"], place)), place)
    return value


def _metrics(value: Any, place: str) -> dict[str, Metric]:
    made = {}
    for key, metric in _object(value, place).items():
        metric = dict(_object(metric, f"{place}: {key}"))
        for name in ("mean", "standard_error"):
            number = metric.get(name)
            if number is not None or name == "mean":
                _checked(number, (int, float), f"{place}: {key}", name)
        made[key] = _made(Metric, metric, f"{place}: {key}")
    return made


def _object(value: Any, place: str) -> Mapping[str, Any]:
    return _checked(value, Mapping, place, None)


def _checked(value: Any, kind, place: str, key: str | None):
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        what = place if key is None else f"{place}: {key}"
        raise HfgenError(f"{what} is {str(value)[:40]!r}, which is not what hfgen writes there: make the file anew")
    return value


def _made(cls: type, value: Mapping[str, Any], place: str):
    known = {item.name: str(item.type) for item in fields(cls)}
    unknown = [key for key in value if key not in known]
    if unknown:
        raise HfgenError(f"{place} has {', '.join(map(str, unknown))}, which hfgen does not know: make the file anew")
    for key, part in value.items():
        kinds = KINDS.get(known[key].removesuffix(" | None"))
        if kinds is not None and not (part is None and known[key].endswith(" | None")):
            _checked(part, kinds, place, key)
    try:
        return cls(**value)
    except TypeError as error:
        missing = str(error).rpartition("argument")[2].strip(" s:")
        raise HfgenError(f"{place} lacks {missing or error}: make the file anew") from error
