"""Train latent variable models of images with diffusers, measure them by likelihood and samples, share them on the Hub."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from hfgen.configs.evaluation import ComparisonConfig, EvaluationConfig
    from hfgen.configs.sampling import SamplingConfig
    from hfgen.configs.training import TrainingConfig
    from hfgen.core.errors import HfgenError
    from hfgen.drawing.draw import Samples
    from hfgen.evaluation.compare import Comparison
    from hfgen.families.model import Model
    from hfgen.library import Training, compare, evaluate, load, sample, train, training_config
    from hfgen.results import EvaluationResult

_PLACES = {
    "Comparison": "hfgen.evaluation.compare",
    "ComparisonConfig": "hfgen.configs.evaluation",
    "EvaluationConfig": "hfgen.configs.evaluation",
    "EvaluationResult": "hfgen.results",
    "HfgenError": "hfgen.core.errors",
    "Model": "hfgen.families.model",
    "Samples": "hfgen.drawing.draw",
    "SamplingConfig": "hfgen.configs.sampling",
    "Training": "hfgen.library",
    "TrainingConfig": "hfgen.configs.training",
    "compare": "hfgen.library",
    "evaluate": "hfgen.library",
    "load": "hfgen.library",
    "sample": "hfgen.library",
    "train": "hfgen.library",
    "training_config": "hfgen.library",
}
__all__ = [
    "Comparison",
    "ComparisonConfig",
    "EvaluationConfig",
    "EvaluationResult",
    "HfgenError",
    "Model",
    "Samples",
    "SamplingConfig",
    "Training",
    "TrainingConfig",
    "__version__",
    "compare",
    "evaluate",
    "load",
    "sample",
    "train",
    "training_config",
]


def __getattr__(name: str) -> Any:
    """Loaded on first use: importing hfgen takes no time."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
