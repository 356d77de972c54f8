"""Bounds on the likelihood, evaluated."""

from hfgen.likelihood.elbo import VAEBounds, vae_bounds
from hfgen.likelihood.exact import exact_vlb
from hfgen.likelihood.images import Images
from hfgen.likelihood.sampled import sampled_vlb
from hfgen.likelihood.vlb import Estimate, VlbTerms

__all__ = ["Estimate", "Images", "VAEBounds", "VlbTerms", "exact_vlb", "sampled_vlb", "vae_bounds"]
