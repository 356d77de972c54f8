"""Bounds on the likelihood, evaluated."""

from hfgen.likelihood.vae import VAEBounds, vae_bounds

__all__ = ["VAEBounds", "vae_bounds"]
