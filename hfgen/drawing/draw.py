"""Images from any sampler, one seed for each image."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from tqdm.auto import tqdm

from hfgen.core.errors import HfgenError
from hfgen.core.media import CLIPS, image_grid, save_gif, save_png, to_pil, to_uint8, unit_to_uint8
from hfgen.core.processes import is_first, shared
from hfgen.core.random import Stream, seeded
from hfgen.core.video import save_clips
from hfgen.drawing.sampler import Sampler

TRAJECTORY_IMAGES = 16
TRAJECTORY_FRAMES = 50
SECONDS_UNSEEN = 2
Frames = dict[int, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Sampled images and how long they took.

    Attributes:
        images: uint8 (N, C, H, W), of clips (N, F, C, H, W).
        trajectory: uint8 (frames, M, C, H, W), the first M <= 16 images from noise to result; None if not asked for.
        seconds: of sampling.
        how: by which sampler.
    """

    images: torch.Tensor = field(repr=False)
    trajectory: torch.Tensor | None = field(default=None, repr=False)
    seconds: float
    how: str

    def grid(self) -> PIL.Image.Image:
        """All images in one picture; of clips a row for each, with its frames."""
        return image_grid(self.images)

    def pil(self) -> list[PIL.Image.Image]:
        """The images as PIL images, of clips all their frames."""
        return to_pil(self.images.flatten(0, -4))

    def save(self, path: str | Path) -> None:
        """Write the grid as PNG; `HfgenError` when it cannot be written."""
        save_png(self.grid(), Path(path))

    def save_clips(self, path: str | Path) -> None:
        """Write clips as an animation, GIF or MP4; `HfgenError` for images, for an MP4 without an encoder, and when it cannot be written."""
        if self.images.ndim != CLIPS:
            raise HfgenError(f"animation {path}: these samples are images, no clips: save them as PNG")
        save_clips(self.images, Path(path))

    def save_trajectory(self, path: str | Path) -> None:
        """Write an animation from noise to images as GIF; `HfgenError` without a trajectory or when it cannot be written."""
        if self.trajectory is None:
            raise HfgenError("these samples have no trajectory: sample with trajectory=True")
        save_gif([image_grid(frame) for frame in self.trajectory], Path(path))

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        self.grid().save(picture, format="PNG")
        return picture.getvalue()


def draw_samples(
    sampler: Sampler,
    *,
    device: torch.device,
    num_images: int,
    seed: int = 0,
    batch_size: int = 64,
    first: int = 0,
    trajectory: bool = False,
    show_progress: bool = True,
) -> Samples:
    """Sample images first..first+num_images-1, the noise of image i drawn from a generator of its own, seeded by (seed, i).

    Image i is therefore the same whatever `num_images` and `batch_size` are, but for the rounding of the network, whose
    matrix products sum in another order for another batch: at times a pixel differs by one of its 256 levels.
    The generators lie on `device`; another kind of device draws other images.

    A sampler of fixed batches gets full ones only, and its warm-up does not count as seconds. Processes that work together draw
    a batch each in turn, and all get all images.

    Raises `HfgenError` for numbers out of range, for a trajectory of a sampler that has no steps, and for images that are
    not finite.
    """
    if trajectory and not sampler.calls:
        raise HfgenError("trajectory: this model draws an image in one step, or tells of none: leave it out")
    recorder = Recorder(sampler.calls, range(first, first + min(num_images, TRAJECTORY_IMAGES))) if trajectory else None
    drawing = Drawing(sampler=sampler, device=device, seed=seed, batch_size=batch_size, show_progress=show_progress)
    parts = drawing.parts(first, num_images)
    drawing.warm_up(parts[0])
    start = time.perf_counter()
    images = torch.cat([batch for _, batch in drawing.batches(parts, recorder)])
    frames = recorder.frames(images) if recorder is not None else None
    return Samples(images=images, trajectory=frames, seconds=time.perf_counter() - start, how=sampler.how)


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Images of a sampler, batch by batch; `HfgenError` for numbers out of range."""

    sampler: Sampler
    device: torch.device
    seed: int = 0
    batch_size: int = 64
    show_progress: bool = True

    def __post_init__(self):
        for name, least in (("batch_size", 1), ("seed", 0)):
            if (value := getattr(self, name)) < least:
                raise HfgenError(f"{name}={value}: use {least} or more")

    def parts(self, first: int, num_images: int) -> list[range]:
        """The batches of images first..first+num_images-1, by their numbers; `HfgenError` for none."""
        if num_images < 1:
            raise HfgenError(f"num_images={num_images}: use 1 or more")
        end = first + num_images
        return [range(start, min(start + self.batch_size, end)) for start in range(first, end, self.batch_size)]

    def warm_up(self, part: range) -> None:
        """As the sampler's; not to be counted as time of sampling."""
        self.sampler.warm_up(self._generators(part), part.start)

    def batches(self, parts: Sequence[range], recorder: Recorder | None = None) -> Iterator[tuple[range, torch.Tensor]]:
        """These batches: the images' numbers, and uint8 (B, C, H, W) on the CPU.

        Raises `HfgenError` for images that are not finite.
        """
        for part, (pixels, frames) in shared(parts, lambda own: self._drawn(own, recorder)):
            if recorder is not None:
                recorder.keep(frames)
            yield part, pixels

    def _drawn(self, parts: Sequence[range], recorder: Recorder | None) -> Iterator[tuple[torch.Tensor, Frames]]:
        """Of each batch the pixels, and what is to be recorded of it."""
        steps, part = self.sampler.calls * len(parts), range(0)
        frames: Frames = {}
        last: torch.Tensor | None = None  # of the last step: the images themselves are clamped, and inf looks like 1
        with self._bar(steps, sum(map(len, parts))) as bar:

            def on_step(step: int, x: torch.Tensor | Callable[[], torch.Tensor]) -> None:
                nonlocal last
                last = None if callable(x) else x
                bar.update()
                if recorder is not None and recorder.wants(step, part):
                    frames[step] = recorder.frame(x() if callable(x) else x, part)

            for part in parts:
                frames = {}
                images = self.sampler.draw(self._generators(part), part.start, on_step)[: len(part)]
                finite = (images if last is None else last).isfinite().all() & images.isfinite().all()
                pixels = unit_to_uint8(images).cpu()
                if not finite.item():
                    raise HfgenError(
                        f"images {part.start}..{part.stop - 1} came out as nan or inf, which is no sample: the weights "
                        "are damaged, or an option is out of all proportion"
                    )
                if not steps:
                    bar.update(len(part))
                yield pixels, frames

    def _bar(self, steps: int, images: int) -> tqdm:
        """Of a sampler that tells of its steps these; of another the images, where they are not there at once."""
        disable = not (self.show_progress and is_first())
        if steps:
            return tqdm(total=steps, desc="denoising", unit="step", disable=disable)
        return tqdm(total=images, desc="drawing", unit="image", disable=disable, delay=SECONDS_UNSEEN)

    def _generators(self, part: range) -> list[torch.Generator]:
        count = self.batch_size if self.sampler.fixed_batch else len(part)
        return image_generators(self.device, self.seed, part.start, part.start + count)


def image_generators(device: torch.device, seed: int, first: int, end: int) -> list[torch.Generator]:
    """One for each of the images first..end-1; torch has none that draws on mps."""
    draw_on = "cpu" if device.type == "mps" else device
    return [seeded(draw_on, seed, Stream.SAMPLES, i) for i in range(first, end)]


class Recorder:
    """Keeps these images, the first that are drawn, at about 50 evenly chosen of `calls` steps; batches come in order."""

    def __init__(self, calls: int, images: range):
        self.images = images
        chosen = np.linspace(0, calls - 1, min(calls, TRAJECTORY_FRAMES)).round().astype(int)
        self.kept: dict[int, list[torch.Tensor]] = {int(step): [] for step in chosen}

    def wants(self, step: int, part: range) -> bool:
        """Whether this step of a batch is to be recorded."""
        return step in self.kept and part.start in self.images

    def frame(self, x: torch.Tensor, part: range) -> torch.Tensor:
        """What is to be seen of a step of a batch, uint8 (M, C, H, W) on the CPU."""
        # samples of variance-exploding schedulers grow with the noise: show them at the scale of an image
        rms = x.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp(min=1)
        return to_uint8(x / rms)[: min(len(part), self.images.stop - part.start)].cpu()

    def keep(self, frames: Frames) -> None:
        """The frames of the next batch."""
        for step, frame in frames.items():
            self.kept[step].append(frame)

    def frames(self, images: torch.Tensor) -> torch.Tensor:
        """The recorded frames, the last one replaced by the result."""
        noisy = [torch.cat(parts) for parts in self.kept.values()]
        return torch.stack([*noisy[:-1], images[: len(self.images)]])
