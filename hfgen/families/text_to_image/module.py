"""The network of a text-to-image model: the noise predictor, and what reads the words for it."""

from __future__ import annotations

from typing import Any

import torch


class TextConditioned(torch.nn.Module):
    """A `UNet2DConditionModel` that is told what a `CLIPTextModel` reads.

    Args:
        trained: whether the text encoder is trained along. One that is not is none of this module's parameters: it is moved by
            `move_frozen`, and neither saved in checkpoints nor averaged.
    """

    def __init__(self, unet: Any, text_encoder: Any, tokenizer: Any, *, trained: bool):
        super().__init__()
        self.unet, self.tokenizer, self.trained = unet, tokenizer, trained
        self.frozen: tuple[Any, ...] = ()
        if trained:
            self._text_encoder = text_encoder
        else:
            self.frozen = (text_encoder.eval().requires_grad_(False),)

    @property
    def text_encoder(self) -> Any:
        """The reader."""
        return self._text_encoder if self.trained else self.frozen[0]

    @property
    def config(self) -> dict[str, Any]:
        """Of both networks, as JSON values."""
        return {**self.unet.config, "text_encoder": self.text_encoder.config.to_dict()}

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.unet.device

    def move_frozen(self, device: torch.device) -> None:
        """Bring a text encoder that is not trained to the device of the rest."""
        for part in self.frozen:
            part.to(device)

    def encode(self, input_ids: torch.Tensor) -> torch.Tensor:
        """What the noise predictor is told of words, (B, L, D), from their numbers, int64 (B, L)."""
        with torch.set_grad_enabled(self.trained and torch.is_grad_enabled()):
            return self.text_encoder(input_ids)[0]

    def forward(self, x_t: torch.Tensor, timesteps: torch.Tensor, input_ids: torch.Tensor, return_dict: bool = False):
        """The prediction for latents (B, c, h, w), in a tuple."""
        states = self.encode(input_ids).to(x_t.dtype)
        return self.unet(x_t, timesteps, encoder_hidden_states=states, return_dict=return_dict)
