"""What can be chosen of a model of clips."""

from __future__ import annotations

from dataclasses import dataclass

from hfgen.configs.flags import BELOW_ONE, FRACTION, POSITIVE, at_least, flag
from hfgen.families.text_to_image.flags import TextToImageSampling

DEFAULT_SHARE = 0.5
# of a text-to-image model
PARTS = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")


@dataclass(frozen=True, kw_only=True)
class VideoFlags:
    """The flags of train_video.py that are the model's own."""

    _argument_group_name = "video model"

    pretrained_model_name_or_path: str | None = flag(
        None,
        "folder or repository of a text-to-image model, which stays as it is and gets motion modules, or of a video model to go on "
        "from; needed",
        card="always",
    )
    shared_noise: float = flag(
        DEFAULT_SHARE,
        "lambda: covariance of the noise of two frames, from 0, each has its own, to 1, all have the same (Luo et al. 2023)",
        range=FRACTION,
        card="always",
    )
    motion_max_seq_length: int = flag(32, "frames that the motion modules have embeddings for", range=at_least(2))
    motion_num_attention_heads: int = flag(4, "heads of the attention over frames", range=POSITIVE)
    caption_dropout: float = flag(
        0.1, "share of rows whose caption is withheld in training, for guidance", range=BELOW_ONE
    )
    num_inference_steps: int = flag(20, "steps of the clips drawn while training", range=POSITIVE, identity=False)


@dataclass(frozen=True, kw_only=True)
class VideoSampling(TextToImageSampling):
    """How a model of clips is sampled."""

    num_frames: int | None = flag(None, "frames of a clip; none: those of its training", range=POSITIVE)
    independent_frames: bool = flag(
        False, "of a model of clips: each frame drawn alone, without motion modules and shared noise, to compare with"
    )
