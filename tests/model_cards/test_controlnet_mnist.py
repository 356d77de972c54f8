"""The shipped ControlNet: stock diffusers follows the pictures that it is given."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionControlNetPipeline
from PIL import Image, ImageDraw
from scipy.ndimage import binary_dilation
from skimage.morphology import skeletonize

from hfgen.results import EvaluationResult

CARD = Path(__file__).parents[2] / "model_cards" / "controlnet-mnist"


def test_it_takes_at_most_5_mb():
    assert sum(path.stat().st_size for path in CARD.rglob("*") if path.is_file()) <= 5_000_000


def test_control_is_worth_what_was_recorded():
    metrics = EvaluationResult.load(CARD / "results.json").samples.metrics
    assert metrics["control_f1"].mean >= 0.95
    assert metrics["control_f1_uncontrolled"].mean <= 0.7


@pytest.mark.slow
def test_stock_diffusers_draws_a_seven_along_the_line_of_one():
    """Lines about the middle, where MNIST has its digits: of the points of each sample's skeleton most lie within two pixels of its line."""
    pipeline = DiffusionPipeline.from_pretrained(CARD)
    assert type(pipeline) is StableDiffusionControlNetPipeline
    pipeline.set_progress_bar_config(disable=True)
    lines = [sevens(shift) for shift in (-1, 0, 1)]
    images = pipeline(
        ["a handwritten seven"] * 3,
        image=[Image.fromarray(line).convert("RGB") for line in lines],
        num_inference_steps=10,
        guidance_scale=1.5,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images
    for image, line in zip(images, lines, strict=True):
        points = skeletonize(image.mean(-1) > 0.5)
        assert points.sum() >= 12
        assert binary_dilation(line > 0, iterations=2)[points].mean() >= 0.85


def sevens(shift: int) -> np.ndarray:
    """The line of a seven, uint8 (32, 32)."""
    picture = Image.new("L", (32, 32))
    places = [(10, 9), (21, 9), (14, 24)]
    ImageDraw.Draw(picture).line([(x + shift, y) for x, y in places], fill=255)
    return np.asarray(picture)
