"""Names of the samplers, for command lines: this file imports nothing."""

SAMPLER_NAMES = ("ddpm", "ddim", "dpmsolver++", "sde-dpmsolver++", "unipc", "euler", "heun")
