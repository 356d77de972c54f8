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
from hfgen.core.random import Stream, seeded
from hfgen.core.video import save_clips
from hfgen.drawing.sampler import Sampler

TRAJECTORY_IMAGES = 16
TRAJECTORY_FRAMES = 50


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

    A sampler of fixed batches gets full ones only, and its warm-up does not count as seconds.

    Raises `HfgenError` for numbers out of range, for a trajectory of a sampler that has no steps, and for images that are
    not finite.
    """
    if trajectory and not sampler.calls:
        raise HfgenError("trajectory: this model draws an image in one step, or tells of none: leave it out")
    recorder = Recorder(sampler.calls, min(num_images, TRAJECTORY_IMAGES)) if trajectory else None
    drawing = Drawing(
        sampler=sampler,
        device=device,
        seed=seed,
        batch_size=batch_size,
        first=first,
        num_images=num_images,
        show_progress=show_progress,
    )
    drawing.warm_up()
    start = time.perf_counter()
    images = torch.cat([batch for _, batch in drawing.batches(drawing.starts(), recorder)])
    frames = recorder.frames(images) if recorder is not None else None
    return Samples(images=images, trajectory=frames, seconds=time.perf_counter() - start, how=sampler.how)


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Images first..first+num_images-1 of a sampler, batch by batch; `HfgenError` for numbers out of range."""

    sampler: Sampler
    device: torch.device
    num_images: int
    seed: int = 0
    batch_size: int = 64
    first: int = 0
    show_progress: bool = True

    def __post_init__(self):
        for name, least in (("num_images", 1), ("batch_size", 1), ("seed", 0)):
            if (value := getattr(self, name)) < least:
                raise HfgenError(f"{name}={value}: use {least} or more")

    def starts(self) -> range:
        """The first image of each batch."""
        return range(self.first, self.first + self.num_images, self.batch_size)

    def warm_up(self) -> None:
        """As the sampler's; not to be counted as time of sampling."""
        self.sampler.warm_up(self._generators(self.first), self.first)

    def batches(self, starts: Sequence[int], recorder: Recorder | None = None) -> Iterator[tuple[int, torch.Tensor]]:
        """The batches that begin with these images: the number of the first, and uint8 (B, C, H, W) on the CPU.

        Raises `HfgenError` for images that are not finite.
        """
        steps, end = self.sampler.calls * len(starts), self.first + self.num_images
        last: torch.Tensor | None = None  # of the last step: the images themselves are clamped, and inf looks like 1
        with tqdm(total=steps, desc="denoising", unit="step", disable=not (steps and self.show_progress)) as bar:

            def on_step(step: int, x: torch.Tensor | Callable[[], torch.Tensor]) -> None:
                nonlocal last
                last = None if callable(x) else x
                bar.update()
                if recorder is not None:
                    recorder(step, x() if callable(x) else x)

            for start in starts:
                images = self.sampler.draw(self._generators(start), start, on_step)[: end - start]
                finite = (images if last is None else last).isfinite().all() & images.isfinite().all()
                pixels = unit_to_uint8(images).cpu()
                if not finite.item():
                    raise HfgenError(
                        f"images {start}..{start + len(pixels) - 1} came out as nan or inf, which is no sample: the weights "
                        "are damaged, or an option is out of all proportion"
                    )
                yield start, pixels

    def _generators(self, start: int) -> list[torch.Generator]:
        end = start + self.batch_size
        last = end if self.sampler.fixed_batch else min(self.first + self.num_images, end)
        return image_generators(self.device, self.seed, start, last)


def image_generators(device: torch.device, seed: int, first: int, end: int) -> list[torch.Generator]:
    """One for each of the images first..end-1; torch has none that draws on mps."""
    draw_on = "cpu" if device.type == "mps" else device
    return [seeded(draw_on, seed, Stream.SAMPLES, i) for i in range(first, end)]


class Recorder:
    """Keeps the first `count` images at about 50 evenly chosen of `calls` steps; batches come in order."""

    def __init__(self, calls: int, count: int):
        self.count = count
        chosen = np.linspace(0, calls - 1, min(calls, TRAJECTORY_FRAMES)).round().astype(int)
        self.kept: dict[int, list[torch.Tensor]] = {int(step): [] for step in chosen}

    def __call__(self, step: int, x: torch.Tensor) -> None:
        missing = self.count - sum(len(part) for part in self.kept.get(step, []))
        if step in self.kept and missing > 0:
            # samples of variance-exploding schedulers grow with the noise: show them at the scale of an image
            rms = x.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp(min=1)
            self.kept[step].append(to_uint8(x / rms)[:missing])

    def frames(self, images: torch.Tensor) -> torch.Tensor:
        """The recorded frames, the last one replaced by the result."""
        noisy = [torch.cat(parts).cpu() for parts in self.kept.values()]
        return torch.stack([*noisy[:-1], images[: self.count]])
