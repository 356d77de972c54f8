"""Training losses, one short unit per paper equation."""

from hfgen.objectives.diffusion import DiffusionLoss
from hfgen.objectives.simple import SimpleLoss
from hfgen.objectives.times import TIMES, ImportanceTimes, StratifiedTimes, UniformTimes
from hfgen.objectives.variational import SGVBA, SGVBB, ImportanceWeighted, ScoreFunction, kl_weight
from hfgen.objectives.weights import WEIGHTS, on_prediction

__all__ = [
    "SGVBA",
    "SGVBB",
    "TIMES",
    "WEIGHTS",
    "DiffusionLoss",
    "ImportanceTimes",
    "ImportanceWeighted",
    "ScoreFunction",
    "SimpleLoss",
    "StratifiedTimes",
    "UniformTimes",
    "kl_weight",
    "on_prediction",
]
