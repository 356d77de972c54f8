"""Video files such as MP4, by PyAV where it is installed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import PIL.Image

from hfgen.core.errors import HfgenError, one_line
from hfgen.core.video import has_pyav

ENDINGS = (".mp4", ".mov", ".mkv", ".webm", ".avi")
HEAD = 12


def video_frames(value: dict[str, Any], name: str) -> list[PIL.Image.Image] | None:
    """The frames of a row's video file, RGB; None for a file of another kind.

    Raises `HfgenError` for one that cannot be read, and without PyAV.
    """
    path, data = value.get("path"), value.get("bytes")
    if not (_is_video(data[:HEAD]) if data is not None else Path(path or "").suffix.lower() in ENDINGS):
        return None
    if not has_pyav():
        raise HfgenError(
            f"row {name} is a video file, and there is no decoder of such: pip install av, or make GIFs or folders of frames of them"
        )
    import av

    try:
        with av.open(path if data is None else io.BytesIO(data)) as container:
            return [frame.to_image() for frame in container.decode(video=0)]
    except Exception as error:  # PyAV has its own for each kind of damage
        raise HfgenError(
            f"row {name} is unreadable ({one_line(error, 120)}): mend or remove this row and start again"
        ) from error


def _is_video(head: bytes) -> bool:
    """Of MP4 and QuickTime, Matroska and WebM, AVI."""
    return head[4:8] == b"ftyp" or head[:4] == b"\x1aE\xdf\xa3" or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")
