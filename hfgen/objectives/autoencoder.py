"""The terms that an autoencoder is trained by, of each row."""

from __future__ import annotations

import torch
import torch.nn.functional as F

MOST_ADAPTIVE = 1e4
# of the norm of a gradient by which is divided
LEAST_NORM = 1e-4


def gaussian_kl(mean: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
    """KL(N(mean, exp(logvar)) || N(0, I)) in nats, (B,). Source: Kingma & Welling 2014, appendix B."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).sum(1)


def hinge_loss(real: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
    """What the discriminator minimises, of logits of images and of reconstructions, (B,). Source: Lim & Ye 2017."""
    return 0.5 * (F.relu(1 - real) + F.relu(1 + made)).flatten(1).mean(1)


def adaptive_weight(reconstruction: torch.Tensor, adversarial: torch.Tensor, last_layer: torch.Tensor) -> torch.Tensor:
    """||d reconstruction|| / ||d adversarial||, the gradients by the decoder's last weights; at most 10,000, no gradient of its own.

    With it the two pull equally hard there, whatever their scales. Source: Esser et al. 2021, equation 7.
    """
    norms = [
        torch.autograd.grad(loss, last_layer, retain_graph=True)[0].norm() for loss in (reconstruction, adversarial)
    ]
    return (norms[0] / (norms[1] + LEAST_NORM)).clamp(max=MOST_ADAPTIVE).detach()
