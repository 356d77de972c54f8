"""The likelihood of 8-bit pixels that an `AutoencoderKL` is given: a logistic about what it decodes, as wide as values there err."""

from __future__ import annotations

from typing import Any

import torch

from hfgen.core.errors import HfgenError, one_line
from hfgen.models.modeling_hfgen_vae import DiscretizedLogistic

# in the autoencoder's config; diffusers leaves out what begins with an underscore
KEY = "_hfgen_likelihood"
NAME = "discretized_logistic"
QUANTITY = "log-likelihood of 8-bit pixels"
KNOTS, FIRST_LOG_SCALE = 33, -3.0


class PixelLikelihood(torch.nn.Module):
    """p(x|z) of each pixel: a discretised logistic whose location is the decoder's output and whose log scale is a function of it.

    That is linear between `KNOTS` equal places on [-1, 1], each a parameter: black paper is surer to be black than the rim of a
    stroke is to be grey. The stock decoder has no output for a scale, and needs none.
    """

    def __init__(self, log_scale: torch.Tensor | None = None):
        super().__init__()
        self.log_scale = torch.nn.Parameter(torch.full((KNOTS,), FIRST_LOG_SCALE) if log_scale is None else log_scale)

    def nats(self, x: torch.Tensor, decoded: torch.Tensor) -> torch.Tensor:
        """-log p(x|z), (B,), of 8-bit values on [-1, 1] (value / 127.5 - 1) and of what is decoded, both (B, C, H, W)."""
        place = (decoded.clamp(-1, 1) + 1) * ((KNOTS - 1) / 2)
        below = place.detach().floor().clamp(max=KNOTS - 2).long()
        knots = self.log_scale.to(decoded.dtype)
        log_scale = torch.lerp(knots[below], knots[below + 1], place - below)
        return -DiscretizedLogistic().log_prob(x, torch.cat([decoded, log_scale], dim=-3))

    def to_config(self) -> dict[str, Any]:
        """JSON values; `likelihood_of` reads them."""
        return {"name": NAME, "log_scale": self.log_scale.detach().double().cpu().tolist()}


def likelihood_of(autoencoder: Any) -> PixelLikelihood | None:
    """That of an autoencoder which was trained by one; None of others. `HfgenError` for values that cannot be."""
    values = autoencoder.config.get(KEY)
    if values is None:
        return None
    try:
        knots = torch.tensor([float(value) for value in values["log_scale"]])
        if values["name"] != NAME or len(knots) != KNOTS or not knots.isfinite().all():
            raise ValueError(f"not a {NAME} of {KNOTS} finite numbers")
    except (KeyError, TypeError, ValueError) as error:
        raise HfgenError(
            f"{KEY} is {one_line(repr(values), 60)} in the autoencoder's config ({one_line(error)}): remove it"
        ) from error
    return PixelLikelihood(knots).to(autoencoder.device).requires_grad_(False)
