"""Training losses, one short unit per paper equation."""

from hfgen.objectives.simple import SimpleLoss
from hfgen.objectives.variational import SGVBA, SGVBB, ImportanceWeighted, ScoreFunction, kl_weight

__all__ = ["SGVBA", "SGVBB", "ImportanceWeighted", "ScoreFunction", "SimpleLoss", "kl_weight"]
