"""What can be chosen of a flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hfgen.configs.flags import NOT_NEGATIVE, POSITIVE, flag


@dataclass(frozen=True, kw_only=True)
class FlowFlags:
    """The flags of train_flow.py that are a flow's own."""

    _argument_group_name = "flow"

    model_config_name_or_path: str | None = flag(
        None,
        "digits, digits-affine, mnist, mnist-affine, rgb-32, a config JSON of FlowModel, a folder or repository; none: the preset "
        "of the images' size and channels",
    )
    pretrained_model_name_or_path: str | None = flag(
        None, "folder or repository of a trained flow to start from, instead of model_config_name_or_path"
    )
    dequantization: Literal["uniform", "variational"] | None = flag(
        None, "noise that is added to grey levels: uniform, or of a learned q(n|x); none: the config's"
    )


@dataclass(frozen=True, kw_only=True)
class FlowSampling:
    """What can be chosen of its samples."""

    temperature: float = flag(
        1.0,
        "of a flow: standard deviation of the noise that is mapped to images; below 1 they are more typical and less varied",
        range=NOT_NEGATIVE,
    )


@dataclass(frozen=True, kw_only=True)
class FlowLikelihood:
    """How the bounds of a flow are evaluated."""

    iw_samples: int = flag(16, "of a VAE or a flow: importance samples an image", range=POSITIVE)
