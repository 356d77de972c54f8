"""The shipped model of clips: what it draws moves on straight lines and stays what it is, and stock diffusers draws it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AnimateDiffPipeline, DiffusionPipeline

from hfgen.evaluation.clips import centres, straightness
from hfgen.results import EvaluationResult

CARD = Path(__file__).parents[2] / "model_cards" / "video-mnist"
FRAMES, SHARE = 8, 0.5


def test_its_weights_take_at_most_5_mb():
    assert sum(path.stat().st_size for path in CARD.rglob("*.safetensors")) <= 5_000_000


def test_clips_move_as_was_recorded():
    result = EvaluationResult.load(CARD / "results.json")
    assert result.samples.count == 500
    metrics = {name: metric.mean for name, metric in result.metrics.items()}
    assert metrics["same_class"] >= 0.9
    assert metrics["class_agreement"] >= 0.98
    assert metrics["motion_error_floor"] < metrics["motion_error"] <= 1 < 4 < metrics["motion_error_independent"]
    assert metrics["speed"] == pytest.approx(metrics["speed_floor"], rel=0.1)


@pytest.mark.slow
def test_stock_diffusers_draws_a_clip_that_moves_straight():
    """From noise that frames share, in 10 steps; alone they are 4.6 pixels off on the average."""
    pipeline = DiffusionPipeline.from_pretrained(CARD)
    assert type(pipeline) is AnimateDiffPipeline
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    shared, own = (torch.randn(4, 4, n, 8, 8, generator=generator) for n in (1, FRAMES))
    clips = pipeline(
        ["a handwritten seven"] * 4,
        num_frames=FRAMES,
        num_inference_steps=10,
        guidance_scale=4,
        latents=SHARE**0.5 * shared + (1 - SHARE) ** 0.5 * own,
        output_type="np",
    ).frames
    pixels = torch.from_numpy(np.asarray(clips)).movedim(-1, 2).mul(255).round().to(torch.uint8)
    error, speed = straightness(centres(pixels))
    assert error.mean() < 2
    assert 0.5 < speed.mean() < 3
