"""Samples as single files in a folder, which goes on from where it was broken off."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from hfgen.configs.sampling import SamplingConfig
from hfgen.core.errors import HfgenError
from hfgen.core.files import write_json
from hfgen.core.media import save_png, to_pil
from hfgen.core.processes import is_first, on_first
from hfgen.core.resume import remove, tell_anew
from hfgen.drawing.draw import TRAJECTORY_IMAGES, Drawing, Recorder, Samples
from hfgen.drawing.sampler import Sampler
from hfgen.families.model import Model
from hfgen.sampling.sample import check_images_fit, sampler_of, sampling_options

SETTINGS_FILE = ".hfgen-samples.json"
IMAGE = re.compile(r"([0-9]{5}|[1-9][0-9]{5,})\.png")
UNFINISHED = re.compile(r"\.([0-9]{5,}\.png|\.hfgen-samples\.json)\.[a-z0-9_]+\.part")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
NOT_IDENTITY = ("batch_size", "trajectory", "options")
REFUSED = "name a new folder, or pass --overwrite to replace what hfgen drew there"


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a folder's settings file says: of which work the images are, and that those below number `begun` are hfgen's."""

    settings: Mapping[str, Any] | None
    begun: int


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What was done: `drawn` images now, in `seconds`; `head` are the first ones, with their trajectory, if it was asked for."""

    drawn: int
    seconds: float
    how: str
    head: Samples | None


def check_folder(folder: Path, overwrite: bool) -> None:
    """Raise `HfgenError` for a folder with files that hfgen did not draw there, before a model is loaded."""
    record = read_record(folder)
    foreign = [path.name for path in sorted(folder.iterdir()) if not _is_own(path, record)]
    if overwrite:
        foreign = [name for name in foreign if IMAGE.fullmatch(name) or name == SETTINGS_FILE]
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        way = "name a new folder" if overwrite else REFUSED
        raise HfgenError(
            f"--out {folder} is a folder with files in it that hfgen did not draw: {foreign[0]}{more}; {way}"
        )


def read_record(folder: Path) -> Record:
    """Of the settings file; of none, or one that cannot be read, that nothing is hfgen's."""
    path = folder / SETTINGS_FILE
    try:
        value = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError, RecursionError):
        value = {}
    if isinstance(value, dict) and isinstance(value.get("settings"), dict) and isinstance(value.get("begun"), int):
        return Record(settings=value["settings"], begun=value["begun"])
    return Record(settings=None, begun=0)


def draw_into_folder(model: Model, config: SamplingConfig, folder: Path, *, overwrite: bool = False) -> Drawn:
    """Write 00000.png, 00001.png, ... into a folder that exists, a batch as soon as it is drawn.

    Images that an earlier run with the same model, seed and options has drawn stay, as they would be the same; another size
    of the batches changes them but for rounding. With `overwrite` all that hfgen drew there is removed first.

    Raises `HfgenError` for images of another work or other files in the folder, and as `sample_model`.
    """
    on_first(lambda: check_folder(folder, overwrite))
    check_images_fit(model, config, at_once=config.batch_size)
    sampler = sampler_of(model, config)
    if config.trajectory and not sampler.calls:
        raise HfgenError("trajectory: this model draws an image in one step, or tells of none: leave it out")
    settings = _settings(model, config, sampler)

    def left() -> tuple[int, set[int]]:
        record = _taken_over(folder, settings, overwrite)
        return record.begun, _damaged(folder, model.image_shape, min(config.num_images, record.begun))

    begun, damaged = on_first(left)
    drawing = Drawing(sampler=sampler, device=model.pipeline.device, seed=config.seed, batch_size=config.batch_size)
    head = min(config.num_images, TRAJECTORY_IMAGES) if config.trajectory else 0

    def is_needed(part: range) -> bool:
        return part.start < head or part.stop > begun or not damaged.isdisjoint(part)

    parts = [part for part in drawing.parts(0, config.num_images) if is_needed(part)]
    return _draw(drawing, parts, folder, settings, begun, head)


def _draw(
    drawing: Drawing,
    parts: list[range],
    folder: Path,
    settings: Mapping[str, Any],
    begun: int,
    head: int,
) -> Drawn:
    recorder = Recorder(drawing.sampler.calls, range(head)) if head else None
    if parts:
        drawing.warm_up(range(len(parts[0])))
    first: list[torch.Tensor] = []
    drawn, began = 0, time.perf_counter()
    for part, images in drawing.batches(parts, recorder):
        if is_first():
            begun = max(begun, _write(images, part, folder, settings, begun))
        if part.start < head:
            first.append(images)
        drawn += len(images)
    seconds = time.perf_counter() - began
    samples = None
    if recorder is not None:
        images = torch.cat(first)[:head]
        samples = Samples(images=images, trajectory=recorder.frames(images), seconds=seconds, how=drawing.sampler.how)
    return Drawn(drawn=drawn, seconds=seconds, how=drawing.sampler.how, head=samples)


def _write(images: torch.Tensor, part: range, folder: Path, settings: Mapping[str, Any], begun: int) -> int:
    """Single files of a batch; returns the number below which all are now hfgen's."""
    if part.stop > begun:
        # before the images: whatever a kill leaves behind is known to be hfgen's
        write_json(folder / SETTINGS_FILE, {"settings": settings, "begun": part.stop})
    for i, image in zip(part, to_pil(images), strict=True):
        save_png(image, folder / image_name(i))
    return part.stop


def image_name(number: int) -> str:
    """The file of an image."""
    return f"{number:05d}.png"


def _settings(model: Model, config: SamplingConfig, sampler: Sampler) -> dict[str, Any]:
    """What the images depend on, as JSON values."""
    asked = {item.name: getattr(config, item.name) for item in fields(config) if item.name not in NOT_IDENTITY}
    chosen = asdict(sampling_options(model, config))
    of_files = getattr(sampler, "identity", {})
    return json.loads(json.dumps(asked | {"options": chosen, "how": sampler.how} | of_files | model.identity()))


def _taken_over(folder: Path, settings: dict[str, Any], overwrite: bool) -> Record:
    """The record of a folder whose images are of this work; else `HfgenError`, or with `overwrite` one that is empty."""
    record = read_record(folder)
    for path in folder.iterdir():
        if UNFINISHED.fullmatch(path.name) or (overwrite and _is_own(path, record)):
            remove(path)
    if overwrite or record.settings is None:
        return Record(settings=settings, begun=0)
    changed = [key for key in settings.keys() | record.settings.keys() if settings.get(key) != record.settings.get(key)]
    if changed:
        raise HfgenError(
            f"--out {folder} holds images of another work ({', '.join(sorted(changed))} differ): {REFUSED}"
        )
    return record


def _is_own(path: Path, record: Record) -> bool:
    if path.name == SETTINGS_FILE:
        return record.settings is not None
    if UNFINISHED.fullmatch(path.name):
        return path.is_file()
    if not IMAGE.fullmatch(path.name) or not (path.is_file() or path.is_symlink()):
        return False
    return int(path.stem) < record.begun


def _damaged(folder: Path, shape: tuple[int, ...], count: int) -> set[int]:
    """Numbers of the first `count` images that are not there, or not whole."""
    return {i for i in range(count) if not _is_whole(folder / image_name(i), shape)}


def _is_whole(path: Path, shape: tuple[int, ...]) -> bool:
    if not path.is_file():
        return False
    channels, height, width = shape
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.verify()
            if (image.mode, image.size) == (MODES[channels], (width, height)):
                return True
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        pass
    tell_anew(path, "it is")
    return False
