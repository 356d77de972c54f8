"""Networks: presets of diffusers' UNet2DModel, and models of this project that ship to the Hub."""

from hfgen.models.noise_predictor import UNET_PRESETS, build_unet, load_unet_config

__all__ = ["UNET_PRESETS", "build_unet", "load_unet_config"]
