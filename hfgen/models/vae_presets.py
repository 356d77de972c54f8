"""VAEs by preset, config JSON, folder or repository."""

from __future__ import annotations

from hfgen.core.errors import HfgenError
from hfgen.models.configs import load_model_config
from hfgen.models.modeling_hfgen_vae import MLPVAE, ConvVAE

VAE_CLASSES = {"MLPVAE": MLPVAE, "ConvVAE": ConvVAE}


def _mlp(**values):
    return {"_class_name": "MLPVAE", "activation": "elu", **values}


VAE_PRESETS = {
    "digits": _mlp(hidden_sizes=[128, 64], latent_size=8, likelihood="discretized_logistic"),
    "mnist-2d": _mlp(hidden_sizes=[256, 128], latent_size=2, likelihood="bernoulli"),
    # the sizes of Burda et al. 2016, one stochastic layer
    "mnist-50d": _mlp(hidden_sizes=[200, 200], latent_size=50, likelihood="bernoulli", latent_bound=6.0),
    "mnist-grey": _mlp(hidden_sizes=[200, 150], latent_size=32, likelihood="bernoulli_grey"),
    "mnist-conv": {
        "_class_name": "ConvVAE",
        "block_out_channels": [16, 32],
        "likelihood": "discretized_logistic",
        "latent_bound": 6.0,
    },
}


def load_vae_config(name_or_path: str) -> dict:
    """A config of `MLPVAE` or `ConvVAE`, which its "_class_name" tells; sources and errors as `load_model_config`."""
    config = load_model_config(name_or_path, VAE_PRESETS, MLPVAE, "vae")
    if config.get("_class_name") not in list(VAE_CLASSES):  # a list, as the value may be unhashable
        raise HfgenError(
            f"model config {name_or_path} has _class_name={config.get('_class_name')!r}: use one of {', '.join(VAE_CLASSES)}"
        )
    return config


def build_vae(config: dict, resolution: int, channels: int) -> MLPVAE | ConvVAE:
    """A VAE for images of (channels, resolution, resolution); `HfgenError` when the config does not build."""
    kind = VAE_CLASSES[config["_class_name"]]
    values = {k: v for k, v in config.items() if not k.startswith("_") and k != "auto_map"}
    values |= {"sample_size": resolution, "in_channels": channels}
    unknown = set(values) - set(kind._get_init_keys(kind))
    if unknown:
        raise HfgenError(
            f"model config has {', '.join(sorted(unknown))}: {kind.__name__} takes no such argument; remove it"
        )
    try:
        return kind(**values)
    except (ValueError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise HfgenError(f"{kind.__name__} cannot be built from {values}: {reason}") from error
