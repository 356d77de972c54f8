"""How images are drawn from a VAE."""

from __future__ import annotations

from collections.abc import Callable

import torch

from hfgen.core.media import unit_to_uint8
from hfgen.families.vae.flags import VAESampling
from hfgen.pipelines import VAEPipeline


class VAESampler:
    """Means of p(x|z), or draws from it, z ~ N(0, I)."""

    calls = 0
    fixed_batch = False
    class_names: list[str] | None = None

    def __init__(self, pipeline: VAEPipeline, options: VAESampling):
        self.pipeline, self.sample_pixels = pipeline, options.sample_pixels
        self.how = "draws from p(x|z)" if options.sample_pixels else "means of p(x|z)"

    def draw(self, generators, first, on_step=None) -> torch.Tensor:
        """As `Sampler.draw`; there are no steps to tell of."""
        return self.pipeline(len(generators), generators, sample_pixels=self.sample_pixels, output_type="pt").images

    def warm_up(self, generators, first) -> None:
        """The first draw takes no longer than others."""

    def labels(self, count: int) -> torch.Tensor | None:
        """None: there are no classes."""
        return None


def plane_decoder(pipeline: VAEPipeline) -> Callable[[torch.Tensor], torch.Tensor]:
    """What makes the means of p(x|z), uint8 (N, C, H, W) on the CPU, of z (N, 2)."""

    def decoded(z: torch.Tensor) -> torch.Tensor:
        latents = z.to(pipeline.device, pipeline.vae.dtype)
        return unit_to_uint8(pipeline(latents=latents, output_type="pt").images).cpu()

    return decoded
