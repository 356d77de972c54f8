"""What a repository of a video model keeps beside what diffusers knows: in the config of its scheduler, under keys of hfgen's."""

from __future__ import annotations

from typing import Any

SHARE, FRAMES = "_hfgen_shared_noise", "_hfgen_num_frames"
USUAL_FRAMES = 16


def store(scheduler: Any, *, share: float, frames: int) -> None:
    """Write lambda and the frames of a clip into a scheduler's config."""
    scheduler.register_to_config(**{SHARE: share, FRAMES: frames})


def noise_share(pipeline: Any) -> float:
    """lambda of the training; 0 of a model that was not trained by hfgen: AnimateDiff's frames share no noise."""
    return float(pipeline.scheduler.config.get(SHARE, 0.0))


def clip_frames(pipeline: Any) -> int:
    """The frames of a clip in training; of another model 16, or as many as its motion modules have embeddings for."""
    positions = pipeline.unet.config.motion_max_seq_length
    return int(pipeline.scheduler.config.get(FRAMES, min(USUAL_FRAMES, positions)))
