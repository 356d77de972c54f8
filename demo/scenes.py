"""What the page shows, as pictures and text: nothing here knows of the page."""

from __future__ import annotations

import base64
import io
import math
import shlex
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, Queue

import torch
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from PIL import Image
from shelf import options

from hfgen.configs.sampling import SamplingConfig
from hfgen.core.markdown import escape_markdown
from hfgen.core.media import image_grid, to_pil
from hfgen.drawing.draw import Drawing, Recorder
from hfgen.families.model import Model
from hfgen.results import RESULTS_FILE, TRAINING_FILE, EvaluationResult, TrainingRecord
from hfgen.sampling.sample import sampler_of

SIDE = 560
SECONDS_TO_LOOK = 0.05
CELLS = 20
HERE = 280
EDGE = 1e-3  # beyond it a quantile of N(0, 1) is more than 3 deviations out
PART = (5.4, 4.2)  # inches
NO_TERMS = "Its likelihood has no terms over t: what it is made of is in the table."


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is asked for; what a model has no choice of is left out."""

    count: int = 16
    seed: int = 0
    steps: int = 20
    guidance_scale: float = 1.0
    class_labels: tuple[str, ...] = ()
    prompt: str = ""


def class_names(model: Model) -> list[str]:
    """Of a class-conditional model; none of another."""
    if "class_labels" not in options(model):
        return []
    return model.family.sampler(model.pipeline, model.family.sampling_options()).class_names or []


def has_steps(model: Model) -> bool:
    """Whether it draws in steps that can be watched."""
    return "steps" in options(model)


def takes_guidance(model: Model) -> bool:
    """Whether what class it is can be followed more or less; a GAN's generator leaves no choice."""
    return "guidance_scale" in options(model) and bool(class_names(model))


class Live(Recorder):
    """Tells each moment as it comes."""

    def __init__(self, calls: int, count: int, tell: Callable[[torch.Tensor], None]):
        super().__init__(calls, range(count))
        self.tell = tell

    def frame(self, x, part):
        """As it is kept."""
        images = super().frame(x, part)
        self.tell(images)
        return images


def moments(model: Model, wish: Wish) -> Iterator[Image.Image]:
    """Pictures from noise to the samples while they are drawn, of a model without steps the last alone.

    Raises `HfgenError` for what the model cannot do.
    """
    asked = {name: getattr(wish, name) for name in ("steps", "guidance_scale", "class_labels", "prompt")}
    own = {name: value for name, value in asked.items() if name in options(model) and value not in ((), "")}
    sampler = sampler_of(model, SamplingConfig(options=own))
    drawing = Drawing(
        sampler=sampler, device=model.pipeline.device, seed=wish.seed, batch_size=wish.count, show_progress=False
    )
    seen: Queue[torch.Tensor] = Queue()
    live = Live(sampler.calls, wish.count, seen.put) if sampler.calls else None
    with ThreadPoolExecutor(1) as pool:
        drawn = pool.submit(lambda: [images for _, images in drawing.batches(drawing.parts(0, wish.count), live)])
        while not (drawn.done() and seen.empty()):
            with suppress(Empty):
                yield _shown(seen.get(timeout=SECONDS_TO_LOOK))
        yield _shown(torch.cat(drawn.result()))


def example_prompt(model: Model) -> str:
    """Words that it knows, as on its card."""
    record = model.folder / TRAINING_FILE if model.folder else None
    training = TrainingRecord.load(record) if record and record.is_file() else None
    told = shlex.split(model.family.card(model.pipeline, model.name, training, None).sample_flags)
    return told[told.index("--prompt") + 1]


def plane_map(model: Model) -> Image.Image:
    """What the plane of latents holds, 20x20 pictures: each stands for an equal share of p(z)."""
    centres = (torch.arange(CELLS) + 0.5) / CELLS
    down, right = torch.meshgrid(centres, centres, indexing="ij")
    images = model.family.plane(model.pipeline)(latents(right.flatten(), down.flatten()))
    _, channels, height, width = images.shape
    rows = images.view(CELLS, CELLS, channels, height, width).permute(2, 0, 3, 1, 4)
    return to_pil(rows.reshape(1, channels, CELLS * height, CELLS * width))[0]


def latents(right: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """The points z (N, 2) at shares of the map's width from the left and of its height from the top: quantiles of N(0, 1)."""
    shares = torch.stack([right, 1 - down], dim=1).double().clamp(EDGE, 1 - EDGE)
    return torch.special.ndtri(shares).float()


def at_point(model: Model, right: float, down: float) -> tuple[Image.Image, tuple[float, float]]:
    """The picture of a point of the map, and z."""
    z = latents(torch.tensor([right]), torch.tensor([down]))
    image = to_pil(model.family.plane(model.pipeline)(z))[0]
    return image.resize((HERE, HERE), Image.Resampling.BICUBIC), (z[0, 0].item(), z[0, 1].item())


def data_url(image: Image.Image) -> str:
    """A picture as the address of itself."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def results_of(model: Model) -> EvaluationResult | None:
    """What was measured of it; None where nothing was."""
    path = model.folder / RESULTS_FILE if model.folder else None
    return EvaluationResult.load(path) if path and path.is_file() else None


def has_terms(result: EvaluationResult) -> bool:
    """Whether its bound is told term by term over t."""
    return result.likelihood is not None and result.likelihood.terms is not None


def measured(result: EvaluationResult) -> tuple[str, list[dict[str, str]]]:
    """What was measured, in a line of Markdown, and the figures, each with "name" and "value"."""
    on = f"{result.images:,} images of {escape_markdown(result.dataset)} ({escape_markdown(result.split)})"
    rows = [{"name": metric.name, "value": metric.text()} for metric in result.metrics.values()]
    line = f"**{escape_markdown(result.kind)}**, {result.parameters:,} parameters, {on}."
    return line if has_terms(result) else f"{line} {NO_TERMS}", rows


def terms(result: EvaluationResult) -> tuple[Image.Image, Image.Image]:
    """The terms of a bound that has them, and what they add up to: two pictures, as side by side they are too small for a phone."""
    return _part(result.plot(), 0), _part(result.plot(), 1)


def _part(figure: Figure, number: int) -> Image.Image:
    """One of the axes alone."""
    kept = figure.axes[number]
    for axes in figure.axes:
        axes.set_visible(axes is kept)
    kept.set_subplotspec(GridSpec(1, 1, figure)[0])
    figure.set_size_inches(*PART)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return Image.open(buffer)


def _shown(images: torch.Tensor) -> Image.Image:
    """A grid of uint8 images (N, C, H, W), or clips, that fills the page's place for it."""
    columns = images.shape[1] if images.ndim == 5 else math.ceil(len(images) ** 0.5)
    return image_grid(images, columns, scale=max(1, SIDE // (columns * images.shape[-1])))
