"""Noise schedules, and samplers by name. Loaded on first use, so that a command line can list the names at once."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hfgen.schedulers.names import SAMPLER_NAMES

if TYPE_CHECKING:
    from hfgen.schedulers.processes import reverse_process
    from hfgen.schedulers.samplers import make_sampler
    from hfgen.schedulers.scheduling_hfgen_linear_ddpm import LinearDDPMScheduler
    from hfgen.schedulers.scheduling_hfgen_posterior_mean import PosteriorMeanDDPMScheduler

__all__ = ["SAMPLER_NAMES", "LinearDDPMScheduler", "PosteriorMeanDDPMScheduler", "make_sampler", "reverse_process"]

_MODULES = {
    "LinearDDPMScheduler": "scheduling_hfgen_linear_ddpm",
    "PosteriorMeanDDPMScheduler": "scheduling_hfgen_posterior_mean",
    "make_sampler": "samplers",
    "reverse_process": "processes",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
