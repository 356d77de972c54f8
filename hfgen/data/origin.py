"""Where a training's images come from, as its training.json keeps it, so that they are found again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from datasets import Dataset

from hfgen.configs.training import DataConfig
from hfgen.core.errors import HfgenError
from hfgen.core.files import read_json, write_json
from hfgen.data.clip_sources import split_name
from hfgen.data.decode import head_of, read_column
from hfgen.data.digits import DIGITS
from hfgen.data.subset import rows_of_text

PLACE_FILE = ".hfgen/data.json"  # what is hidden stays here when a model is published
HUB, LOCAL, GIVEN = "hub", "local", "python"
HASHED_ROWS = 2000


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Which images were trained on and which held out.

    Attributes:
        source: "hub", "local" (a place on disk), "python" (an object of `datasets`) or "digits".
        name: of the repository, or the last part of the local place; "" for an object.
        config: of the repository.
        image_column, label_column: None for the latter where there are no classes.
        class_names: of labels 0, 1, ...
        train_split, train_rows: the images trained on; None: all rows that are not held out.
        held_out_split, held_out_rows: those held out; None: all rows. Rows as `hfgen.data.subset.rows_text` writes them.
        background: of what is transparent.
        rows: of the training split.
        fingerprint: of the held-out images, as `images_fingerprint` has it.
        caption_column, caption_template: as those of a `CaptionRule`; None both of a training without captions.
        conditioning_column, condition: as column and transform of a `ConditionRule`; None both of a training without such pictures.
        streamed: whether `train_rows` are but the first of a stream; `rows` is then how many of a split have been looked at.
    """

    source: str
    name: str
    config: str | None
    image_column: str
    label_column: str | None
    class_names: tuple[str, ...]
    train_split: str
    train_rows: str | None
    held_out_split: str
    held_out_rows: str | None
    background: str
    rows: int
    fingerprint: str
    caption_column: str | None = None
    caption_template: str | None = None
    conditioning_column: str | None = None
    condition: str | None = None
    streamed: bool = False

    def to_json(self) -> dict[str, Any]:
        """JSON values; `origin_of_json` reads them."""
        return asdict(self)

    @property
    def in_words(self) -> str:
        """What is held out, such as "train, held out"."""
        return self.held_out_split if self.held_out_rows is None else f"{self.held_out_split}, held out"


def origin_of_json(value: Mapping[str, Any], place: str) -> Origin:
    """What `Origin.to_json` gave; `HfgenError` names `place` for anything else."""
    names = {item.name: str(item.type) for item in fields(Origin)}
    value = {item.name: item.default for item in fields(Origin) if item.default is not MISSING} | dict(value)
    kinds = {"str": str, "str | None": (str, type(None)), "int": int, "bool": bool, "tuple[str, ...]": (list, tuple)}
    wrong = [name for name, kind in names.items() if name not in value or not isinstance(value[name], kinds[kind])]
    if wrong or value.keys() - names.keys():
        which = ", ".join(map(str, wrong or value.keys() - names.keys()))
        raise HfgenError(f"{place}: data: {which} is not what hfgen writes there: name the images with --dataset_name")
    for name in ("train_rows", "held_out_rows"):
        if value[name] is not None and not _are_rows(value[name], value["rows"]):
            raise HfgenError(
                f"{place}: data: {name} are no rows of {value['rows']}: name the images with --dataset_name"
            )
    return Origin(**{**value, "class_names": tuple(value["class_names"])})


def _are_rows(text: str, count: int) -> bool:
    try:
        rows = rows_of_text(text)
    except ValueError:
        return False
    return bool(rows) and min(rows) >= 0 and max(rows) < count


def source_of(data: DataConfig) -> tuple[str, str]:
    """The kind of source that data flags name, and its name without the folders that it lies in."""
    if data.dataset is not None:
        return GIVEN, ""
    place = local_place(data)
    if place is not None:
        return LOCAL, f"{_prefix(data)}{place.name}"
    return (DIGITS if split_name(data.dataset_name)[1] == DIGITS else HUB), data.dataset_name


def local_place(data: DataConfig) -> Path | None:
    """Where the images of data flags lie on disk, None for others."""
    if data.dataset is not None:
        return None
    name = data.train_data_dir if data.train_data_dir is not None else split_name(data.dataset_name)[1]
    is_local = name != DIGITS and Path(name).exists()
    return Path(name).resolve() if is_local or data.train_data_dir is not None else None


def keep_place(folder: Path, data: DataConfig) -> None:
    """Write into a training's folder where its local images lie and by which flag they were named, for this machine alone."""
    place = local_place(data)
    path = folder / PLACE_FILE
    if place is None:
        path.unlink(missing_ok=True)
    else:
        path.parent.mkdir(exist_ok=True)
        flag = "dataset_name" if data.train_data_dir is None else "train_data_dir"
        write_json(path, {flag: f"{_prefix(data)}{place}"})


def _prefix(data: DataConfig) -> str:
    """What stands before the name of clips."""
    return "" if data.train_data_dir is not None else split_name(data.dataset_name)[0]


def kept_place(folder: Path) -> dict[str, str]:
    """What `keep_place` wrote, as an argument of `load_source`; nothing where that is not there any more."""
    path = folder / PLACE_FILE
    value = read_json(path) if path.is_file() else None
    if not isinstance(value, dict):
        return {}
    return {
        flag: place
        for flag, place in value.items()
        if flag in ("dataset_name", "train_data_dir") and isinstance(place, str) and Path(split_name(place)[1]).exists()
    }


def images_fingerprint(pictures: Dataset, column: str) -> str:
    """sha256, in hexadecimal, of lengths and beginnings of the image files of an undecoded column, 2,000 evenly spaced at most."""
    digest = hashlib.sha256(str(len(pictures)).encode())
    step = -(-len(pictures) // HASHED_ROWS)
    for first in range(0, len(pictures), step):
        (value,) = read_column(pictures, column, range(first, first + 1))
        length, head = head_of(value)
        digest.update(f"{length} ".encode() + head)
    return digest.hexdigest()
