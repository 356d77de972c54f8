"""What is measured of clips beside their frames: whether what is seen stays the same, and whether it moves along straight lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch.nn.functional import pad

from hfgen.core.errors import HfgenError
from hfgen.core.statistics import standard_error
from hfgen.data.loading import ImagesInMemory, Rows
from hfgen.drawing.sampler import Sampler
from hfgen.evaluation.features import Extractor, Features
from hfgen.evaluation.quality import frechet_distance
from hfgen.results import Metric

INK = 64
# of the frame's side, as MNIST has its digits: their centre of mass in the middle of 28x28 pixels, of which they take 20
WINDOW = 7 / 8
STEP = 0.125
FRAMES_OF_TWO = 12
AT_ONCE = 500
FLOOR, ALONE = "_floor", "_independent"
WORDS = {"": "", FLOOR: ", floor: training clips", ALONE: ", each frame drawn alone"}


def measured_clips(
    clips: torch.Tensor,
    training: Rows,
    sampler: Sampler,
    draw: Callable[[Sampler], torch.Tensor],
    network: Extractor,
    reference: Features,
) -> dict[str, Metric]:
    """`clip_metrics` of drawn clips, of as many training clips, the floor, and of clips whose frames are drawn alone.

    Those are what the sampler's `alone()` draws, where it has such; their frames have a Frechet distance too.
    """
    rows = torch.arange(min(len(clips), len(training)))
    parts = {"": clips, FLOOR: torch.cat([part.cpu() for part in training.batches(rows.split(AT_ONCE))])}
    alone = getattr(sampler, "alone", None)
    if alone is not None:
        parts[ALONE] = draw(alone())
    labels, numbers = sampler.labels(len(clips)), network.numbers_of(sampler.class_names)
    metrics = clip_metrics(parts, network, None if labels is None or numbers is None else numbers[labels])
    return metrics if alone is None else metrics | independent_frechet(parts[ALONE], reference, network)


def clip_metrics(
    clips: Mapping[str, torch.Tensor], network: Extractor, labels: torch.Tensor | None = None
) -> dict[str, Metric]:
    """Metrics of clips, uint8 (N, F, C, H, W), by key and the suffix of theirs.

    The share of clips in whose frames the classifier sees one class, each frame cut about its centre of mass, and the share of frames
    that show the class of most of their clip; of the first clips also
    that in which it is the class asked for. The error of the motion, `motion_error`, and the speed, in pixels.
    """
    metrics: dict[str, Metric] = {}
    for suffix, part in clips.items():
        error, speed = straightness(centres(part))
        found = {
            "motion_error": ("distance of the centre of mass from straight lines, bounces allowed, pixels", error),
            "speed": ("speed of the centre of mass, pixels a frame", speed),
        }
        classes = frame_classes(part, network)
        if classes is not None:
            same = (classes == classes[:, :1]).all(1)
            found["same_class"] = ("share of clips that show one class in all frames", same)
            agree = (classes == classes.mode(1).values[:, None]).double().mean(1)
            found["class_agreement"] = ("share of a clip's frames that show its most frequent class", agree)
            if suffix == "" and labels is not None:
                right = (classes == labels[:, None]).all(1)
                found["class_accuracy"] = ("share of clips that show the class asked for in all frames", right)
        metrics |= {f"{key}{suffix}": _metric(f"{name}{WORDS[suffix]}", x.double()) for key, (name, x) in found.items()}
    return metrics


def _metric(name: str, values: torch.Tensor) -> Metric:
    return Metric(name=name, mean=values.mean().item(), standard_error=standard_error(values))


def independent_frechet(clips: torch.Tensor, reference: Features, network: Extractor) -> dict[str, Metric]:
    """The Frechet distance of frames drawn alone, where there are enough."""
    features = network(ImagesInMemory(clips))
    if min(len(features), len(reference)) <= network.num_features:
        return {}
    name = f"Frechet distance of {network.name} features (not FID){WORDS[ALONE]}"
    return {"frechet_independent": Metric(name=name, mean=frechet_distance(features, reference))}


def frame_classes(clips: torch.Tensor, network: Extractor) -> torch.Tensor | None:
    """The most probable class of each frame about its centre of mass, (N, F); None of a network without classes."""
    if not network.class_names:
        return None
    found = network(ImagesInMemory(centred(clips).flatten(0, 1)), show_progress=False)
    assert found.probabilities is not None
    return found.probabilities.argmax(1).view(clips.shape[:2])


def centres(clips: torch.Tensor) -> torch.Tensor:
    """Centres of mass of the frames of clips, uint8 (N, F, C, H, W), in pixels from the upper left, float64 (N, F, 2): down, right.

    The mass of a pixel is what its brightness exceeds 64 by; of a dark frame the centre is its middle.
    """
    mass = (clips.double().mean(2) - INK).clamp(min=0)
    dark = mass.sum((-2, -1), keepdim=True) == 0
    mass = torch.where(dark, torch.ones_like(mass), mass)
    places = [torch.arange(side, dtype=torch.float64) for side in mass.shape[-2:]]
    total = mass.sum((-2, -1))
    down, right = mass.sum(-1) @ places[0], mass.sum(-2) @ places[1]
    return torch.stack([down / total, right / total], dim=-1)


def centred(clips: torch.Tensor) -> torch.Tensor:
    """Windows of 7/8 of the side about the centres of mass of all frames, (N, F, C, w, w); what is beyond the edge is black."""
    side = round(clips.shape[-1] * WINDOW)
    frames = pad(clips.cpu().flatten(0, 1), [side] * 4)
    corners = (centres(clips.cpu()).flatten(0, 1) - (side - 1) / 2 + side).round().long()
    cut = [
        frame[:, top : top + side, left : left + side]
        for frame, (top, left) in zip(frames, corners.tolist(), strict=True)
    ]
    return torch.stack(cut).unflatten(0, clips.shape[:2])


def straightness(paths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How far paths (N, F, 2) are from straight lines that bounce, and their speed, float64 (N,) each.

    Along each axis the path is held against c + v h(t), fitted by least squares, where h goes up and down by 1 a frame: without a
    turn, with one, and from 12 frames on with two, at any eighth of a frame. The error is the root of the mean square of the distances
    over the frames, the speed that of the fit.

    Raises `HfgenError` for fewer than 4 frames, through which such lines always go.
    """
    frames = paths.shape[1]
    if frames < 4:
        raise HfgenError(f"clips of {frames} frames: the error of a motion needs 4 or more, pass --num_frames")
    basis = _zigzags(frames)
    basis = basis - basis.mean(1, keepdim=True)
    y = (paths - paths.mean(1, keepdim=True)).transpose(1, 2)
    slope = y @ basis.T / basis.square().sum(1)
    left = y.square().sum(2, keepdim=True) - slope.square() * basis.square().sum(1)
    best, place = left.clamp(min=0).min(2)
    speed = slope.gather(2, place[..., None])[..., 0].square().sum(1).sqrt()
    return (best.sum(1) / frames).sqrt(), speed


def _zigzags(frames: int) -> torch.Tensor:
    """h(t) at t = 0..F-1 of each choice of turns, float64 (K, F)."""
    t = torch.arange(frames, dtype=torch.float64)
    turns = torch.arange(STEP, frames - 1, STEP, dtype=torch.float64)
    found = [t[None], (t - turns[:, None]).abs()]
    if frames >= FRAMES_OF_TWO:
        a, b = torch.combinations(turns).T[..., None]
        found.append(torch.where(t <= a, t, torch.where(t <= b, 2 * a - t, t - 2 * (b - a))))
    return torch.cat(found)
