"""Names of the samplers, for command lines: this file imports the standard library alone."""

from typing import Literal, get_args

SamplerName = Literal["ddpm", "ddim", "dpmsolver++", "sde-dpmsolver++", "unipc", "euler", "heun"]
SAMPLER_NAMES: tuple[str, ...] = get_args(SamplerName)
