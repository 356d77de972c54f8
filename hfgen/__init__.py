"""Train VAEs and diffusion models with diffusers, measure them by likelihood, share them on the Hub."""

__version__ = "0.1.0"
