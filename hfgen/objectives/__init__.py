"""Training losses, one short unit per paper equation."""

from hfgen.objectives.diffusion import DiffusionLoss
from hfgen.objectives.shared_noise import shared_noise
from hfgen.objectives.times import TIMES, ImportanceTimes, StratifiedTimes, UniformTimes
from hfgen.objectives.variational import (
    SGVBA,
    SGVBB,
    DReG,
    ImportanceWeighted,
    LatentVariableModel,
    PixelLikelihood,
    ScoreFunction,
    kl_weight,
    layer_terms,
    log_ratio,
)
from hfgen.objectives.weights import WEIGHTS, min_snr, on_prediction

__all__ = [
    "SGVBA",
    "SGVBB",
    "TIMES",
    "WEIGHTS",
    "DReG",
    "DiffusionLoss",
    "ImportanceTimes",
    "ImportanceWeighted",
    "LatentVariableModel",
    "PixelLikelihood",
    "ScoreFunction",
    "StratifiedTimes",
    "UniformTimes",
    "kl_weight",
    "layer_terms",
    "log_ratio",
    "min_snr",
    "on_prediction",
    "shared_noise",
]
