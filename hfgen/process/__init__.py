"""Diffusion processes: the forward one, what a network predicts of it, and the reverse one. Imports torch alone."""

from hfgen.process.discretized import discretized_gaussian_nll
from hfgen.process.gaussian import (
    GaussianProcess,
    append_dims,
    one_minus_snr_ratio,
    posterior_mean_weights,
    squared_coefficients,
    to_float64,
    values_at,
)
from hfgen.process.parameterization import (
    PARAMETERIZATIONS,
    Epsilon,
    Parameterization,
    PosteriorMean,
    Sample,
    Velocity,
    epsilon_from_prediction,
)
from hfgen.process.reverse import FIXED, LEARNED, Network, NetworkOutput, OutputShapeError, ReverseProcess

__all__ = [
    "FIXED",
    "LEARNED",
    "PARAMETERIZATIONS",
    "Epsilon",
    "GaussianProcess",
    "Network",
    "NetworkOutput",
    "OutputShapeError",
    "Parameterization",
    "PosteriorMean",
    "ReverseProcess",
    "Sample",
    "Velocity",
    "append_dims",
    "discretized_gaussian_nll",
    "epsilon_from_prediction",
    "one_minus_snr_ratio",
    "posterior_mean_weights",
    "squared_coefficients",
    "to_float64",
    "values_at",
]
