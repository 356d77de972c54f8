"""How images are drawn from a diffusion model of latents: as from one of images, and decoded."""

from __future__ import annotations

from hfgen.data.latents import decoded
from hfgen.drawing.sampler import OnStep
from hfgen.families.ddpm.class_conditional import ClassConditionalSampler
from hfgen.families.ddpm.sampler import DiffusionSampler


class LatentSampler(DiffusionSampler):
    """A `DiffusionSampler` whose steps are told as images."""

    def _draw(self, generators, first, steps, on_step):
        return super()._draw(generators, first, steps, as_images(self.pipeline.autoencoder, on_step))


class LatentClassSampler(ClassConditionalSampler):
    """A `ClassConditionalSampler` whose steps are told as images."""

    def _draw(self, generators, first, steps, on_step):
        return super()._draw(generators, first, steps, as_images(self.pipeline.autoencoder, on_step))


def as_images(autoencoder, on_step: OnStep | None) -> OnStep | None:
    """Told images of the latents that it is called with."""
    if on_step is None:
        return None
    return lambda step, latents: on_step(step, lambda: decoded(latents, autoencoder))
