"""The flags of the trainers; names are those of diffusers' unconditional trainer where it has them."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal


def flag(default, help):
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class DataArguments:
    _argument_group_name = "data"

    dataset_name: str = flag("ylecun/mnist", "repository on the Hub, local folder in its layout, or digits (embedded)")
    dataset_config_name: str | None = flag(None, "configuration of the dataset")
    train_data_dir: str | None = flag(None, "folder of image files, instead of dataset_name")
    cache_dir: str | None = flag(None, "where datasets keeps what it downloads")
    image_column: str | None = flag(None, "column of the images; none: the first image column")
    label_column: str | None = flag(None, "column of the classes; none: the first class column, if any")
    train_split: str = flag("train", "split to train on")
    validation_split: str | None = flag(
        None, "split for the held-out loss; none or not there: a tenth of the training images, 2,000 at most"
    )
    max_train_samples: int | None = flag(None, "images to train on at most (the first ones); none: all")
    resolution: int | None = flag(None, "pixels a side; none: the shorter side of the first image")
    center_crop: bool = flag(False, "cut the square from the middle; else from a place drawn once per image")
    random_flip: bool = flag(False, "mirror half of the training images left to right, drawn anew at each use")


@dataclass(frozen=True)
class OptimizationArguments:
    _argument_group_name = "optimization"

    train_batch_size: int = flag(16, "images per process and micro-batch")
    eval_batch_size: int = flag(16, "images per process for the held-out loss, and per batch of samples")
    num_epochs: int = flag(100, "passes over the training images")
    max_train_steps: int | None = flag(None, "optimizer steps, instead of num_epochs")
    gradient_accumulation_steps: int = flag(1, "micro-batches per optimizer step")
    learning_rate: float = flag(1e-4, "learning rate after warm-up")
    lr_scheduler: Literal[
        "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"
    ] = flag("cosine", "shape of the learning rate over the optimizer steps")
    lr_warmup_steps: int = flag(500, "optimizer steps of linear warm-up")
    adam_beta1: float = flag(0.95, "AdamW's decay of the first moment")
    adam_beta2: float = flag(0.999, "AdamW's decay of the second moment")
    adam_weight_decay: float = flag(1e-6, "AdamW's decoupled weight decay")
    adam_epsilon: float = flag(1e-8, "AdamW's epsilon")
    max_grad_norm: float = flag(1.0, "gradients are scaled down to this Euclidean norm; 0: never")
    use_ema: bool = flag(True, "keep a moving average of the weights; it is what is held out, sampled and saved")
    ema_max_decay: float = flag(0.9999, "largest decay per optimizer step of the moving average")
    ema_inv_gamma: float = flag(1.0, "inverse gamma of the decay's warm-up 1 - (1 + step / inv_gamma)^-power")
    ema_power: float = flag(0.75, "power of the decay's warm-up")
    mixed_precision: Literal["no", "fp16", "bf16"] | None = flag(None, "none: what accelerate is configured for")
    compile: bool = flag(False, "torch.compile the training step; pays on a GPU")
    seed: int = flag(0, "decides weights, order and noise; 0 or more")


@dataclass(frozen=True)
class RunArguments:
    _argument_group_name = "run"

    config: str | None = flag(
        None, "YAML file of flags, such as training/digits.yaml; flags on the command line override it"
    )
    output_dir: str = flag("ddpm-model", "folder of the pipeline, its checkpoints, pictures and logs")
    overwrite_output_dir: bool = flag(False, "replace what an earlier training left in output_dir")
    resume_from_checkpoint: str | None = flag(None, "a checkpoint's folder, or latest (a fresh start if there is none)")
    checkpointing_steps: int = flag(500, "optimizer steps between checkpoints")
    checkpoints_total_limit: int | None = flag(None, "newest checkpoints to keep; none: all")
    save_images_epochs: int = flag(10, "epochs between grids of samples; 0: never")
    save_model_epochs: int = flag(10, "epochs between saves of the pipeline; it is also saved at the end")
    logging_steps: int = flag(20, "optimizer steps between readings of loss, learning rate and images/s")
    logger: Literal["tensorboard", "wandb", "none"] = flag(
        "tensorboard", "tracker; tensorboard writes to output_dir/logs"
    )


@dataclass(frozen=True)
class HubArguments:
    _argument_group_name = "Hub"

    push_to_hub: bool = flag(False, "push the pipeline and its card to the Hub when the training is done")
    hub_model_id: str | None = flag(
        None, "repository to push to, as name or user/name; none: the name of output_dir, in your namespace"
    )
    hub_token: str | None = field(
        default=None, repr=False, metadata={"help": "token to push with; none: HF_TOKEN or that of hf auth login"}
    )
    hub_private_repo: bool = flag(False, "make the repository a private one")


@dataclass(frozen=True)
class DiffusionArguments:
    _argument_group_name = "diffusion model"

    model_config_name_or_path: str = flag(
        "mnist",
        "noise predictor: digits, mnist, mnist-fourier, cifar10, a UNet2DModel config JSON, a folder or repository",
    )
    ddpm_num_steps: int = flag(1000, "T, the steps of the diffusion; betas are scaled by 1000/T")
    ddpm_num_inference_steps: int = flag(1000, "ancestral steps of the samples drawn while training, at most T")
    ddpm_beta_schedule: Literal["linear", "squaredcos_cap_v2", "sigmoid"] = flag(
        "squaredcos_cap_v2",
        "betas: squaredcos_cap_v2 (cosine, Nichol & Dhariwal 2021), linear (Ho et al. 2020) or sigmoid",
    )
    rescale_betas_zero_snr: bool = flag(
        False, "shift the betas so that x_T is noise alone (Lin et al. 2023); not for epsilon and mu"
    )
    ddpm_variance_type: Literal["fixed_small", "fixed_large", "learned_range"] = flag(
        "fixed_small", "variance of a reverse step: beta_tilde (small), beta (large), or learned between them"
    )
    variance_objective: Literal["hybrid", "vlb"] = flag(
        "hybrid", "of learned_range: L_hybrid, which trains the mean by loss_weighting, or L_vlb, the bound for both"
    )
    prediction_type: Literal["epsilon", "sample", "v_prediction", "mu"] = flag(
        "v_prediction", "what the network predicts: v, the noise, x_0, or mu, the mean of q(x_{t-1} | x_t, x_0)"
    )
    loss_weighting: Literal["simple", "vlb", "snr", "truncated_snr", "min_snr"] = flag(
        "simple",
        "weight of the squared error at t: 1 on the prediction, the bound's, or on x_0 SNR, max(SNR, 1) or min(SNR, snr_gamma)",
    )
    snr_gamma: float = flag(5.0, "gamma of min_snr (Hang et al. 2023)")
    time_sampling: Literal["uniform", "stratified", "importance"] = flag(
        "uniform",
        "t of a batch's rows: each uniform, spread evenly over 1..T, or drawn by the size of their losses and weighted back",
    )
    class_conditional: bool = flag(False, "tell the network the classes of label_column, for classifier-free guidance")
    class_dropout: float = flag(0.1, "share of rows whose class is withheld in training")


@dataclass(frozen=True)
class VAEArguments:
    _argument_group_name = "VAE"

    model_config_name_or_path: str = flag(
        "mnist-50d",
        "digits, mnist-2d, mnist-50d, mnist-grey, mnist-conv, a config JSON of MLPVAE or ConvVAE, a folder or repository",
    )
    pretrained_model_name_or_path: str | None = flag(
        None, "folder or repository of a trained VAE pipeline to start from, instead of model_config_name_or_path"
    )
    latent_size: int | None = flag(None, "dimensions of z; none: the config's")
    likelihood: (
        Literal["bernoulli", "bernoulli_static", "bernoulli_grey", "gaussian", "discretized_logistic", "categorical"]
        | None
    ) = flag(
        None,
        "p(x|z); bernoulli binarises the pixels anew at each use, bernoulli_static once, bernoulli_grey not at all (a "
        "pseudo-likelihood); none: the config's",
    )
    gaussian_variance: float | None = flag(None, "variance of the gaussian likelihood; none: the config's, or learned")
    latent_bound: float | None = flag(
        None, "keep the mean of q(z|x) within this distance of 0; 0: no bound; none: the config's"
    )
    objective: Literal["sgvb_b", "sgvb_a", "iw", "score_function", "score_function_no_baseline"] = flag(
        "sgvb_b",
        "bound with analytic KL, bound all by Monte Carlo, importance-weighted bound, score-function gradient with or "
        "without baseline",
    )
    num_latent_samples: int = flag(1, "samples of q(z|x) per image: L, or k of the importance-weighted bound")
    kl_warmup_steps: int = flag(0, "optimizer steps in which the weight of the KL term grows to 1")


@dataclass(frozen=True)
class VAERunArguments(RunArguments):
    output_dir: str = flag("vae-model", "folder of the pipeline, its checkpoints, pictures and logs")
    config: str | None = flag(
        None, "YAML file of flags, such as training/vae-digits.yaml; flags on the command line override it"
    )


@dataclass(frozen=True)
class VAEConfig:
    """All flags of train_vae.py."""

    script: ClassVar[str] = "training/train_vae.py"
    data: DataArguments
    model: VAEArguments
    optimization: OptimizationArguments
    run: VAERunArguments
    hub: HubArguments = HubArguments()


@dataclass(frozen=True)
class DDPMConfig:
    """All flags of train_ddpm.py."""

    script: ClassVar[str] = "training/train_ddpm.py"
    data: DataArguments
    model: DiffusionArguments
    optimization: OptimizationArguments
    run: RunArguments
    hub: HubArguments = HubArguments()
