"""Training losses, one short unit per paper equation."""

from hfgen.objectives.simple import SimpleLoss

__all__ = ["SimpleLoss"]
