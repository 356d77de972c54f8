"""What can be chosen of a hierarchical VAE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hfgen.configs.flags import flag
from hfgen.families.vae.flags import VariationalFlags


@dataclass(frozen=True, kw_only=True)
class MHVAEFlags(VariationalFlags):
    """The flags of train_mhvae.py that are a hierarchical VAE's own."""

    _argument_group_name = "hierarchical VAE"

    model_config_name_or_path: str | None = flag(
        None,
        "digits, mnist-2, mnist-5, mnist-8bit, rgb-32, a config JSON of MLPMHVAE or ConvMHVAE, a folder or repository; none: "
        "the preset of the images' size and channels",
    )
    pretrained_model_name_or_path: str | None = flag(
        None, "folder or repository of a trained hierarchical VAE to start from, instead of model_config_name_or_path"
    )
    latent_sizes: tuple[int, ...] | None = flag(
        None, "of an MLPMHVAE: dimensions of z_1, next to the image, to z_T; none: the config's"
    )
    objective: Literal["sgvb_b", "sgvb_a", "iw", "dreg"] = flag(
        "sgvb_b",
        "bound with what is known of its KL in closed form, bound all by Monte Carlo, importance-weighted bound, the same "
        "with doubly reparameterised gradients",
    )
