"""Clips as animations: GIF by Pillow, MP4 by PyAV where it is installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hfgen.core.errors import HfgenError
from hfgen.core.files import whole
from hfgen.core.media import image_grid, save_gif

FRAMES_PER_SECOND = 8
ENDINGS = (".gif", ".mp4")


def check_animation(flag: str, path: Path) -> None:
    """Raise `HfgenError` for a file of another kind than GIF and MP4, and for an MP4 where nothing encodes it."""
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise HfgenError(f"{flag} {path}: animations are GIF or MP4 files, name one that ends in .gif or .mp4")
    if ending == ".mp4" and not has_pyav():
        raise HfgenError(f"{flag} {path}: there is no encoder of MP4: pip install av, or name a file that ends in .gif")


def has_pyav() -> bool:
    """Whether PyAV is installed, which brings decoders and encoders of video files."""
    return find_spec("av") is not None


def save_clips(clips: torch.Tensor, path: Path) -> None:
    """Write clips, uint8 (N, F, C, H, W), beside each other as one endless GIF, or MP4, of 8 frames a second, in one step.

    Raises `HfgenError` as `check_animation`, and for a file that cannot be written.
    """
    check_animation("animation", path)
    frames = [image_grid(frame) for frame in clips.unbind(1)]
    if path.suffix.lower() == ".gif":
        save_gif(frames, path, frame_ms=1000 // FRAMES_PER_SECOND, last_ms=1000 // FRAMES_PER_SECOND)
    else:
        _save_mp4(frames, path)


def _save_mp4(frames: list[Image.Image], path: Path) -> None:
    import av

    width, height = (side + side % 2 for side in frames[0].size)  # the encoder halves the colours
    with whole(path) as beside, av.open(str(beside), "w", format="mp4") as container:
        stream = container.add_stream("h264", rate=FRAMES_PER_SECOND)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            even = Image.new("RGB", (width, height))
            even.paste(frame.convert("RGB"))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(even), format="rgb24")))
        container.mux(stream.encode())
