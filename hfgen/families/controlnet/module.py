"""A frozen text-to-image model that a ControlNet tells pictures."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ControlNetModel

from hfgen.data.conditions import FULL
from hfgen.data.latents import factor
from hfgen.families.model import Model

CONDITION_CHANNELS = 3  # as pipelines make a PIL image into
FIRST_WIDTH = 8


class Controlled(torch.nn.Module):
    """The noise predictor of a text-to-image model, which is not trained, with a `ControlNetModel`, which is.

    Args:
        base: the text-to-image model; its parts are none of this module's parameters.
    """

    def __init__(self, controlnet: Any, base: Model):
        super().__init__()
        self.controlnet, self.base = controlnet, base
        for part in self.frozen:
            part.eval().requires_grad_(False)

    @property
    def frozen(self) -> tuple[Any, ...]:
        """What is used here and is none of its parameters."""
        return self.base.pipeline.unet, self.base.pipeline.text_encoder

    @property
    def tokenizer(self) -> Any:
        """Of the model that is controlled."""
        return self.base.pipeline.tokenizer

    @property
    def config(self) -> dict[str, Any]:
        """Of the ControlNet, and what it controls, as JSON values."""
        return {**self.controlnet.config, "base": self.base.digest()}

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.controlnet.device

    def move_frozen(self, device: torch.device) -> None:
        """Bring what is not trained to the device of the rest."""
        for part in self.frozen:
            part.to(device)

    def forward(
        self,
        x_t: torch.Tensor,
        timesteps: torch.Tensor,
        input_ids: torch.Tensor,
        controlnet_cond: torch.Tensor,
        return_dict: bool = False,
    ):
        """The prediction for latents (B, c, h, w) with pictures (B, 3, H, W) in [0, 1], in a tuple.

        Source: Zhang et al. 2023, equation 2.
        """
        unet, text_encoder = self.frozen
        with torch.no_grad():
            states = text_encoder(input_ids)[0].to(x_t.dtype)
        down, mid = self.controlnet(
            x_t, timesteps, encoder_hidden_states=states, controlnet_cond=controlnet_cond, return_dict=False
        )
        return unet(
            x_t,
            timesteps,
            encoder_hidden_states=states,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
            return_dict=return_dict,
        )


def new_controlnet(unet: Any, autoencoder: Any) -> ControlNetModel:
    """A `ControlNetModel` with the weights of a noise predictor, which at first changes nothing (zero convolutions)."""
    halvings = factor(autoencoder).bit_length() - 1
    return ControlNetModel.from_unet(
        unet,
        conditioning_channels=CONDITION_CHANNELS,
        conditioning_embedding_out_channels=tuple(FIRST_WIDTH * 2**level for level in range(halvings + 1)),
    )


def as_condition(pictures: torch.Tensor) -> torch.Tensor:
    """What a ControlNet is told, float32 (B, 3, H, W) in [0, 1], of pictures to follow, uint8 (B, 1 or 3, H, W)."""
    return (pictures.float() / FULL).expand(-1, CONDITION_CHANNELS, -1, -1)
