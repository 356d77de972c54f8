"""What can be chosen of a VAE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hfgen.configs.flags import NOT_NEGATIVE, POSITIVE, flag

LikelihoodName = Literal[
    "bernoulli",
    "bernoulli_static",
    "bernoulli_grey",
    "gaussian",
    "discretized_logistic",
    "discretized_logistic_rgb",
    "categorical",
]


@dataclass(frozen=True, kw_only=True)
class VariationalFlags:
    """The flags of all VAEs, of one layer of latents or of several."""

    likelihood: LikelihoodName | None = flag(
        None,
        "p(x|z); bernoulli binarises the pixels anew at each use, bernoulli_static once, bernoulli_grey not at all (a "
        "pseudo-likelihood), discretized_logistic_rgb is of images of 3 channels; none: the config's",
    )
    gaussian_variance: float | None = flag(
        None, "variance of the gaussian likelihood; none: the config's, or learned", range=POSITIVE
    )
    latent_bound: float | None = flag(
        None,
        "keep the mean of q(z|x) within this distance of 0; 0: no bound; none: the config's",
        range=NOT_NEGATIVE,
    )
    num_latent_samples: int = flag(
        1, "samples of q(z|x) per image: L, or k of the importance-weighted bound", range=POSITIVE
    )
    gradient_samples: int | None = flag(
        None,
        "of iw and dreg: how many of the samples, drawn by their weights, the gradient goes through, in the mean the same "
        "gradient; 8 of 50 take 0.6 times as long; none: all",
        range=POSITIVE,
    )
    kl_warmup_steps: int = flag(0, "optimizer steps in which the weight of the KL term grows to 1", range=NOT_NEGATIVE)
    free_bits: float = flag(
        0.0, "nats that the KL of a layer of latents counts for at least, image by image", range=NOT_NEGATIVE
    )


@dataclass(frozen=True, kw_only=True)
class VAEFlags(VariationalFlags):
    """The flags of train_vae.py that are a VAE's own."""

    _argument_group_name = "VAE"

    model_config_name_or_path: str | None = flag(
        None,
        "digits, mnist-2d, mnist-50d, mnist-50d-wide, mnist-grey, mnist-conv, grey-32, grey-64, grey-128, rgb-28, rgb-32, rgb-64, "
        "rgb-128, a config JSON of MLPVAE or ConvVAE, a folder or repository; none: the preset of the images' size and channels",
    )
    pretrained_model_name_or_path: str | None = flag(
        None, "folder or repository of a trained VAE pipeline to start from, instead of model_config_name_or_path"
    )
    latent_size: int | None = flag(None, "dimensions of z; none: the config's", range=POSITIVE)
    objective: Literal["sgvb_b", "sgvb_a", "iw", "dreg", "score_function", "score_function_no_baseline"] = flag(
        "sgvb_b",
        "bound with analytic KL, bound all by Monte Carlo, importance-weighted bound, the same with doubly reparameterised "
        "gradients, score-function gradient with or without baseline",
    )


@dataclass(frozen=True, kw_only=True)
class VAESampling:
    """How a VAE is sampled."""

    sample_pixels: bool = flag(False, "of a VAE: draw from p(x|z) instead of showing its mean")


@dataclass(frozen=True, kw_only=True)
class VAELikelihood:
    """How the bounds of a VAE are evaluated."""

    iw_samples: int = flag(5000, "of a VAE or a flow: importance samples an image", range=POSITIVE)
