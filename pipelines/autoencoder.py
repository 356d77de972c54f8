"""An `AutoencoderKL` of diffusers as a pipeline that is saved so that diffusers loads it."""

from __future__ import annotations

import os
from typing import Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, ImagePipelineOutput

from hfgen.pipelines.inputs import images_to_tensor
from hfgen.pipelines.saving import without_origin


class AutoencoderPipeline(DiffusionPipeline):
    """Images to latents and back.

    What `save_pretrained` leaves is the autoencoder in the folder vae, which `AutoencoderKL.from_pretrained(repo, subfolder="vae")`
    loads without this class. diffusers has no pipeline of an autoencoder alone.
    """

    def __init__(self, vae: AutoencoderKL):
        super().__init__()
        self.register_modules(vae=vae)

    @torch.no_grad()
    def __call__(self, images: Any, output_type: str = "pil") -> ImagePipelineOutput:
        """Reconstructions of images by the means of their latents.

        Args:
            images: as `images_to_tensor` takes them: PIL images, arrays or tensors, uint8 or in [0, 1].
            output_type: "pil", "np" of (B, H, W, C) or "pt" of (B, C, H, W); values of both in [0, 1].

        Raises `ValueError` for images of another size or number of channels.
        """
        size = self.vae.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        x = images_to_tensor(images, (self.vae.config.in_channels, height, width)).to(self.vae.device)
        found = (self.vae.decode(self.vae.encode(x).latent_dist.mode()).sample / 2 + 0.5).clamp(0, 1)
        if output_type == "pt":
            return ImagePipelineOutput(images=found)
        arrays = found.cpu().permute(0, 2, 3, 1).float().numpy()
        return ImagePipelineOutput(images=self.numpy_to_pil(arrays) if output_type == "pil" else arrays)

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Save the autoencoder and a `model_index.json` that names it; arguments as in `DiffusionPipeline.save_pretrained`."""
        saved = AutoencoderPipeline(without_origin(self.vae))
        DiffusionPipeline.save_pretrained(saved, os.fspath(save_directory), push_to_hub=push_to_hub, **kwargs)
