"""What can be chosen of a model that follows pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from hfgen.configs.flags import BELOW_ONE, NOT_NEGATIVE, POSITIVE, flag
from hfgen.families.text_to_image.flags import TextToImageSampling


@dataclass(frozen=True, kw_only=True)
class ControlNetFlags:
    """The flags of train_controlnet.py that are the model's own. The process is that of the model that is controlled."""

    _argument_group_name = "ControlNet"

    pretrained_model_name_or_path: str | None = flag(
        None,
        "folder or repository of a StableDiffusionPipeline, such as train_text_to_image.py leaves: it stays as it is, and is told by a "
        "new ControlNetModel; or of a StableDiffusionControlNetPipeline, whose ControlNetModel is trained on",
    )
    loss_weighting: Literal["simple", "snr", "truncated_snr", "min_snr"] = flag(
        "simple",
        "weight of the squared error at t: 1 on the prediction, or on x_0 SNR, max(SNR, 1) or min(SNR, snr_gamma)",
    )
    snr_gamma: float = flag(5.0, "gamma of min_snr (Hang et al. 2023)", range=POSITIVE)
    time_sampling: Literal["uniform", "stratified", "importance"] = flag(
        "uniform",
        "t of a batch's rows: each uniform, spread evenly over 1..T, or drawn by the size of their losses and weighted back",
    )
    caption_dropout: float = flag(0.1, "share of rows whose caption is withheld in training", range=BELOW_ONE)


@dataclass(frozen=True, kw_only=True)
class ControlSampling(TextToImageSampling):
    """How a model that follows pictures is sampled.

    Attributes:
        conditions: the pictures themselves as `hfgen.data.conditions.Conditions`, where they are those of images.
    """

    control: tuple[str, ...] | None = flag(
        None, "of a model that follows pictures: files of them, several in turn, of the size of its images"
    )
    control_scale: float = flag(
        1.0, "of a model that follows pictures: how strongly it does; 0: not at all", range=NOT_NEGATIVE
    )
    conditions: Any = field(default=None, repr=False)
