"""Bounds on the likelihood, evaluated."""

from hfgen.likelihood.exact import exact_vlb
from hfgen.likelihood.process import DiffusionProcess
from hfgen.likelihood.sampled import sampled_vlb
from hfgen.likelihood.vae import VAEBounds, vae_bounds
from hfgen.likelihood.vlb import Estimate, VlbTerms

__all__ = ["DiffusionProcess", "Estimate", "VAEBounds", "VlbTerms", "exact_vlb", "sampled_vlb", "vae_bounds"]
