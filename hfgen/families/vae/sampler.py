"""How images are drawn from a VAE."""

from __future__ import annotations

import torch

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
