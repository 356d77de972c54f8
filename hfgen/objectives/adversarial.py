"""The losses of two networks that play against each other, of logits by which a discriminator tells real images from made ones."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F


class AdversarialLoss(Protocol):
    """What both networks minimise, row by row, (B,) of logits (B,); high logits are those of real images."""

    def discriminator(self, real: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
        """Of logits of as many real images as made ones."""

    def generator(self, made: torch.Tensor) -> torch.Tensor:
        """Of logits of made images."""


class NonSaturating:
    """Cross-entropies in nats. Source: Goodfellow et al. 2014, equation 1, and section 3 for the generator's."""

    def discriminator(self, real: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
        """-log D(x) - log(1 - D(G(z)))."""
        return F.softplus(-real) + F.softplus(made)

    def generator(self, made: torch.Tensor) -> torch.Tensor:
        """-log D(G(z)), which has a gradient also where the discriminator is sure."""
        return F.softplus(-made)


class Hinge:
    """Margins. Source: Miyato et al. 2018, equations 16 and 17."""

    def discriminator(self, real: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
        """max(0, 1 - D(x)) + max(0, 1 + D(G(z)))."""
        return F.relu(1 - real) + F.relu(1 + made)

    def generator(self, made: torch.Tensor) -> torch.Tensor:
        """-D(G(z))."""
        return -made


ADVERSARIAL: dict[str, type[NonSaturating] | type[Hinge]] = {"non_saturating": NonSaturating, "hinge": Hinge}


def r1_penalty(logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """||grad_x D(x)||^2 of each real image, (B,), by logits (B,) of `images` (B, ...), which require a gradient.

    Source: Mescheder et al. 2018, equation 9, there times gamma / 2.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().flatten(1).sum(1)
