"""What can be chosen of a diffusion model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hfgen.configs.flags import BELOW_ONE, FRACTION, POSITIVE, Range, at_least, flag
from hfgen.schedulers.names import SamplerName

LEAST_EVALUATIONS = 100

# what is beyond draws images of 0 and 255 alone, and further on overflows
GUIDANCE = Range(accepts=lambda v: 0 <= v <= 1000, words="from 0 to 1000")


@dataclass(frozen=True, kw_only=True)
class DiffusionFlags:
    """The flags of every trainer of a diffusion model by its betas."""

    _argument_group_name = "diffusion model"

    model_config_name_or_path: str | None = flag(
        None,
        "noise predictor: digits, mnist, mnist-fast, mnist-fourier, grey-32, grey-64, grey-128, rgb-28, rgb-32, rgb-64, rgb-128, "
        "cifar10, a UNet2DModel config JSON, a folder or repository; of latents latent-4, -7, -8, -16, -32, and dit-4, -7, -8, "
        "-16, -32; none: the preset of the images' size and channels",
    )
    pretrained_model_name_or_path: str | None = flag(
        None,
        "folder or repository of a UNet2DModel with its scheduler to start from, instead of model_config_name_or_path; what is "
        "not given below is its own",
    )
    autoencoder: str | None = flag(
        None,
        "folder or repository of an AutoencoderKL: train on its latents, a UNet, or with class_conditional a diffusion transformer",
        identity=False,
    )
    ddpm_num_steps: int | None = flag(
        None, "T, the steps of the diffusion; betas are scaled by 1000/T; none: 1000", range=POSITIVE
    )
    ddpm_num_inference_steps: int | None = flag(
        None,
        "ancestral steps of the samples drawn while training, at most T; none: the default sampler's 20",
        range=POSITIVE,
        identity=False,
    )
    ddpm_beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"] | None = flag(
        None,
        "betas: squaredcos_cap_v2 (cosine, Nichol & Dhariwal 2021), linear (Ho et al. 2020), scaled_linear (Stable Diffusion's) or sigmoid; none: squaredcos_cap_v2",
        card="always",  # a default may change, a model does not
    )
    rescale_betas_zero_snr: bool = flag(
        False, "shift the betas so that x_T is noise alone (Lin et al. 2023); not for epsilon and mu"
    )
    ddpm_variance_type: Literal["fixed_small", "fixed_large", "learned_range"] | None = flag(
        None,
        "variance of a reverse step: beta_tilde (small), beta (large), or learned between them; none: fixed_small",
        card="always",
    )
    prediction_type: Literal["epsilon", "sample", "v_prediction", "mu"] | None = flag(
        None,
        "what the network predicts: v, the noise, x_0, or mu, the mean of q(x_{t-1} | x_t, x_0); none: v_prediction",
        card="always",
    )
    loss_weighting: Literal["simple", "vlb", "snr", "truncated_snr", "min_snr"] = flag(
        "simple",
        "weight of the squared error at t: 1 on the prediction, the bound's, or on x_0 SNR, max(SNR, 1) or min(SNR, snr_gamma)",
    )
    snr_gamma: float = flag(5.0, "gamma of min_snr (Hang et al. 2023)", range=POSITIVE)
    time_sampling: Literal["uniform", "stratified", "importance"] = flag(
        "uniform",
        "t of a batch's rows: each uniform, spread evenly over 1..T, or drawn by the size of their losses and weighted back",
    )


@dataclass(frozen=True, kw_only=True)
class DDPMFlags(DiffusionFlags):
    """The flags of train_ddpm.py that are a diffusion model's own."""

    variance_objective: Literal["hybrid", "vlb"] = flag(
        "hybrid", "of learned_range: L_hybrid, which trains the mean by loss_weighting, or L_vlb, the bound for both"
    )
    class_conditional: bool = flag(False, "tell the network the classes of label_column, for classifier-free guidance")
    class_dropout: float = flag(0.1, "share of rows whose class is withheld in training", range=BELOW_ONE)


@dataclass(frozen=True, kw_only=True)
class DiffusionSampling:
    """How a diffusion model is sampled."""

    scheduler: SamplerName | None = flag(
        None, "sampler of a diffusion model; none: sde-dpmsolver++, of a variational one its own ancestral steps"
    )
    steps: int | None = flag(
        None,
        "denoising steps; none: 20, all for ddpm, 50 for ddim, euler and heun, 250 of a variational model's own",
        range=POSITIVE,
    )
    eta: float | None = flag(None, "noise of ddim, from 0 (none) to 1 as in ddpm; none: 0", range=FRACTION)


@dataclass(frozen=True, kw_only=True)
class ClassConditionalSampling(DiffusionSampling):
    """How a class-conditional diffusion model is sampled."""

    class_labels: tuple[str, ...] | None = flag(
        None, "classes of a class-conditional model, by number or name, in turn; none: all"
    )
    guidance_scale: float | None = flag(
        None,
        "w in out_u + w (out_c - out_u) of a class-conditional model; none: 1, no guidance; above: more typical",
        range=GUIDANCE,
    )


@dataclass(frozen=True, kw_only=True)
class DiffusionLikelihood:
    """How the bound of a diffusion model is evaluated."""

    exact: bool = flag(False, "of a diffusion model: every t for every image")
    evaluations: int = flag(
        100_000,
        "of a diffusion model: network evaluations for the bound, without --exact",
        range=at_least(LEAST_EVALUATIONS),
    )
