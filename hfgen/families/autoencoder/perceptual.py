"""How far apart two images look to a classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from hfgen.core.errors import HfgenError, one_line
from hfgen.core.files import read_json
from hfgen.core.shipped import DIGITS_CLASSIFIER

DIGITS, PREPROCESSOR_FILE = "digits", "preprocessor_config.json"
EPSILON = 1e-6


class PerceptualDistance(torch.nn.Module):
    """Squared distance of a classifier's features, those of each place scaled to length 1, means over places, summed over layers.

    Source: Zhang et al. 2018, equation 1, with all weights equal.
    """

    def __init__(self, model: Any, preprocessor: Mapping[str, Any]):
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        size = preprocessor.get("crop_size") or preprocessor["size"]
        side = size.get("height") or size["shortest_edge"]
        self.size, self.channels = (side, size.get("width") or side), model.config.num_channels
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(preprocessor[f"image_{name}"]).view(-1, 1, 1))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """(B,), of images (B, C, H, W) in [-1, 1]."""
        found = zip(self._features(x), self._features(y), strict=True)
        return sum(((a - b).square().sum(1).flatten(1).mean(1) for a, b in found), torch.zeros(len(x), device=x.device))

    def _features(self, x: torch.Tensor) -> Sequence[torch.Tensor]:
        x = (x.clamp(-1, 1) + 1) / 2
        x = F.interpolate(x.expand(-1, self.channels, -1, -1), self.size, mode="bilinear", antialias=True)
        states = self.model((x - self.mean) / self.std, output_hidden_states=True).hidden_states
        return [_unit(state if state.ndim == 4 else state.movedim(-1, 1)) for state in states]


def _unit(features: torch.Tensor) -> torch.Tensor:
    return features / (features.norm(dim=1, keepdim=True) + EPSILON)


def perceptual_distance(name: str, channels: int) -> PerceptualDistance:
    """That of "digits", or of a folder or repository of an image classifier of `transformers`.

    Weights are read from safetensors alone. Raises `HfgenError` for one that cannot be loaded, or does not take such images.
    """
    from transformers import AutoModelForImageClassification
    from transformers.utils import cached_file

    path = str(DIGITS_CLASSIFIER) if name == DIGITS else name
    try:
        model = AutoModelForImageClassification.from_pretrained(path, use_safetensors=True, trust_remote_code=False)
        found = PerceptualDistance(model, read_json(Path(cached_file(path, PREPROCESSOR_FILE))))
    except Exception as error:  # of what is none the loaders raise anything
        raise HfgenError(
            f"perceptual_network={name!r} cannot be loaded ({one_line(error, 200)}): pass digits, or an image classifier with "
            "safetensors and a preprocessor_config.json"
        ) from error
    if channels not in (1, found.channels):
        raise HfgenError(
            f"perceptual_network={name!r} takes {found.channels} channels, and the images have {channels}: name another"
        )
    return found
