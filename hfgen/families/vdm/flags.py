"""What can be chosen of a variational diffusion model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from hfgen.configs.flags import BELOW_ONE, POSITIVE, Range, at_least, flag
from hfgen.families.ddpm.flags import ClassConditionalSampling

DEFAULT_STEPS = 250
# the flag is also that of other diffusion models, with one range
LEAST_EVALUATIONS = 100
FINITE = Range(accepts=lambda v: -math.inf < v < math.inf, words="finite")


@dataclass(frozen=True, kw_only=True)
class VDMFlags:
    """The flags of train_vdm.py that are a variational diffusion model's own."""

    _argument_group_name = "variational diffusion model"

    model_config_name_or_path: str | None = flag(
        None,
        "digits, mnist, mnist-gpu, mnist-gpu-large, rgb-32, cifar10, a config JSON of VDMModel, a folder or repository; none: "
        "the preset of the images' size and channels",
    )
    pretrained_model_name_or_path: str | None = flag(
        None, "folder or repository of a trained model to start from, instead of model_config_name_or_path"
    )
    autoencoder: str | None = flag(
        None, "folder or repository of an AutoencoderKL: train on its latents", identity=False
    )
    gamma: Literal["fixed", "scalar", "network"] | None = flag(
        None, "-log SNR over t: a fixed line, a line whose ends are learned, a monotone network; none: the config's"
    )
    gamma_min: float | None = flag(None, "gamma(0) to start from; none: the config's, -13.3", range=FINITE)
    gamma_max: float | None = flag(None, "gamma(1) to start from; none: the config's, 5", range=FINITE)
    prediction_type: Literal["epsilon", "v_prediction"] | None = flag(
        None, "what the network predicts: the noise or v; none: the config's"
    )
    loss_type: Literal["continuous", "discrete"] = flag(
        "continuous", "the bound of continuous time, or of a chain of vdm_num_steps", card="always"
    )
    vdm_num_steps: int = flag(1000, "T of the discrete loss", range=POSITIVE)
    vdm_num_inference_steps: int = flag(
        DEFAULT_STEPS, "steps of the samples drawn while training", range=POSITIVE, identity=False
    )
    class_conditional: bool = flag(False, "tell the network the classes of label_column, for classifier-free guidance")
    class_dropout: float = flag(0.1, "share of rows whose class is withheld in training", range=BELOW_ONE)


@dataclass(frozen=True, kw_only=True)
class VDMSampling(ClassConditionalSampling):
    """How a variational diffusion model is sampled: without a scheduler by its own ancestral steps."""


@dataclass(frozen=True, kw_only=True)
class VDMLikelihood:
    """How the bound of a variational diffusion model is evaluated."""

    evaluations: int = flag(
        100_000, "network evaluations for the bound, over all images", range=at_least(LEAST_EVALUATIONS)
    )
    bound_steps: int | None = flag(
        None, "T of a variational diffusion model's bound; none: continuous time", range=POSITIVE
    )
