"""Networks: presets of diffusers' UNet2DModel, and models of this project that ship to the Hub."""

from hfgen.models.modeling_hfgen_vae import LIKELIHOODS, MLPVAE, ConvVAE
from hfgen.models.noise_predictor import UNET_PRESETS, build_unet, load_unet_config
from hfgen.models.vae_presets import VAE_PRESETS, build_vae, load_vae_config

__all__ = [
    "LIKELIHOODS",
    "MLPVAE",
    "UNET_PRESETS",
    "VAE_PRESETS",
    "ConvVAE",
    "build_unet",
    "build_vae",
    "load_unet_config",
    "load_vae_config",
]
