"""Generator and discriminator behind one call, as a wrapper for several processes needs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from hfgen.models.modeling_hfgen_gan import GANDiscriminator, GANGenerator


class GANModule(torch.nn.Module):
    """What is trained. The generator alone becomes the pipeline; the discriminator stays in the checkpoints of the training."""

    def __init__(self, generator: GANGenerator, discriminator: GANDiscriminator):
        super().__init__()
        self.generator, self.discriminator = generator, discriminator

    @property
    def config(self) -> Mapping[str, Any]:
        """Of the generator, and below "discriminator" of the other."""
        told = {k: v for k, v in self.discriminator.config.items() if not k.startswith("_")}
        return {**self.generator.config, "discriminator": {k: _plain(v) for k, v in told.items()}}

    @property
    def device(self) -> torch.device:
        """Where both lie."""
        return self.generator.device

    def forward(
        self, noise: torch.Tensor, class_labels: torch.Tensor | None = None, real: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Logits (B,) of images made of noise (B, latent_size); with `real`, (B, C, H, W), logits (2 B,) of these and of made ones
        that no gradient reaches.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and real is None):
            made = self.generator(noise, class_labels)
        if real is None:
            return self.discriminator(made, class_labels)
        both = torch.cat([real, made.to(real.dtype)])
        return self.discriminator(both, None if class_labels is None else class_labels.repeat(2))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
