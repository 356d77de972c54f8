"""Clips made from pictures: what is drawn on black moves in a straight line and bounces off the edges."""

from __future__ import annotations

import hashlib

import numpy as np
import PIL.Image

MOVING_COLUMN = "moving_image"
DEFAULT_FRAMES = 8
MOVING_TOLD = (
    "the pictures move: what is not black of each, 5/8 of the side long, on black; of images the first frame is taken"
)
# shares of the frame's side: of what moves, and of the way from frame to frame
SIZE = 5 / 8
SLOWEST, FASTEST = 0.03, 0.055


def moving_clip(picture: PIL.Image.Image, side: int, frames: int) -> np.ndarray:
    """uint8 (frames, C, side, side): the picture's ink, 5/8 of the side long, on black, from a place and in a direction of its own.

    Both are drawn from a digest of the picture's pixels, uniformly, and the speed between 0.03 and 0.055 of the side: the clip is a
    function of the picture, and a longer one goes on from a shorter one. Places are rounded to whole pixels.
    """
    ink = _ink(picture, round(side * SIZE))
    height, width = ink.shape[:2]
    random = np.random.default_rng(list(hashlib.sha256(ink.tobytes()).digest()[:8]))
    room = np.array([side - height, side - width])
    start, angle = random.uniform(0, room), random.uniform(0, 2 * np.pi)
    speed = random.uniform(SLOWEST, FASTEST) * side
    places = bounce(start, speed * np.array([np.sin(angle), np.cos(angle)]), room, frames).round().astype(int)
    clip = np.zeros((frames, side, side, *ink.shape[2:]), np.uint8)
    for frame, (top, left) in zip(clip, places, strict=True):
        frame[top : top + height, left : left + width] = ink
    return clip[:, None] if clip.ndim == 3 else clip.transpose(0, 3, 1, 2)


def bounce(start: np.ndarray, velocity: np.ndarray, room: np.ndarray, frames: int) -> np.ndarray:
    """Places (frames, D) of a point that moves by `velocity` each frame within 0..room, (D,), reflected at both ends."""
    free = start + velocity * np.arange(frames)[:, None]
    folded = free % np.where(room > 0, 2 * room, 1)
    return np.where(room > 0, np.minimum(folded, 2 * room - folded), 0)


def _ink(picture: PIL.Image.Image, longest: int) -> np.ndarray:
    """The part of a picture that is not black, resized so that its longer side is `longest`; of an all black one the whole."""
    cut = picture.crop(picture.getbbox())
    scale = longest / max(cut.size)
    if scale != 1:
        cut = cut.resize([max(1, round(side * scale)) for side in cut.size], PIL.Image.Resampling.BILINEAR)
    return np.asarray(cut)
