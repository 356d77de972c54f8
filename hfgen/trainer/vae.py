"""Train a VAE: from parsed flags to a pipeline on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate.utils import set_seed

from hfgen.data.binarize import binarize
from hfgen.data.order import Stream, seeded
from hfgen.errors import HfgenError
from hfgen.evaluation.images import EvaluationImages
from hfgen.evaluation.vae_figures import save_vae_figures
from hfgen.history import bound_label
from hfgen.images import image_grid, save_png, to_uint8
from hfgen.loading import load_vae_pipeline
from hfgen.models import build_vae, load_vae_config
from hfgen.objectives import SGVBA, SGVBB, ImportanceWeighted, ScoreFunction, kl_weight
from hfgen.pipelines import VAEPipeline
from hfgen.trainer.config import VAEArguments, VAEConfig
from hfgen.trainer.output import check_output_dir, save_into
from hfgen.trainer.run import SAMPLES, hub_repository, run_training
from hfgen.trainer.setup import make_accelerator
from hfgen.trainer.training_set import TrainingSet, load_training_set

OBJECTIVES = {
    "sgvb_a": SGVBA,
    "sgvb_b": SGVBB,
    "iw": ImportanceWeighted,
    "score_function": ScoreFunction,
    "score_function_no_baseline": lambda likelihood: ScoreFunction(likelihood, baseline=False),
}


@dataclass(frozen=True)
class VAETask:
    """A bound on log p(x) as the loss, means of p(x|z) as the grid, a `VAEPipeline` repository as the result."""

    objective: object
    image_shape: tuple[int, int, int]
    latent_size: int
    num_latent_samples: int
    kl_warmup_steps: int
    seed: int
    terms = ("loss", "reconstruction", "kl")
    states = ()

    @property
    def noise_shape(self) -> tuple[int, int]:
        return self.num_latent_samples, self.latent_size

    @property
    def uniforms(self) -> int:
        """One for each pixel that is binarised anew at each use."""
        channels, height, width = self.image_shape
        return channels * height * width if self.objective.likelihood.binarization == "dynamic" else 0

    @property
    def ylabel(self) -> str:
        return bound_label(self.objective.likelihood)

    def loss(self, model, batch):
        return self._terms(model, batch, kl_weight(batch.step, self.kl_warmup_steps), Stream.TRAINING_NOISE)

    def end_step(self):
        """Nothing is kept from step to step."""

    def held_out_loss(self, model, batch):
        return self._terms(model, batch, 1.0, Stream.VALIDATION_NOISE)

    def _terms(self, model, batch, weight, stream):
        kind = self.objective.likelihood.binarization
        x = binarize(kind, batch.x_0, batch.uniform, batch.rows, (self.seed, stream))
        return self.objective(model, x, batch.noise.transpose(0, 1), weight)

    def save_samples(self, model, path: Path):
        images = VAEPipeline(model)(SAMPLES, seeded(model.device, self.seed, Stream.SAMPLES), output_type="pt").images
        path.parent.mkdir(parents=True, exist_ok=True)
        save_png(image_grid(to_uint8(images * 2 - 1).cpu()), path)

    def save_pipeline(self, model, output_dir: Path):
        save_into(output_dir, VAEPipeline(model).save_pretrained)

    def save_figures(self, output_dir: Path, images: TrainingSet, device: torch.device):
        """Those of `save_vae_figures`, on the held-out images."""
        data = EvaluationImages(images.validation, images.labels, images.class_names, "")
        save_vae_figures(load_vae_pipeline(output_dir, device=device), data, output_dir, output_dir, self.seed)


def train_vae(config: VAEConfig) -> Path:
    """Train from a configuration; returns the output folder, which holds a `VAEPipeline` repository.

    Nothing is written before the data, the model and the output folder have been checked.

    Raises `HfgenError` for input that cannot be used, as the trainers' flags describe.
    """
    data, model, optimization, run = config.data, config.model, config.optimization, config.run
    check_output_dir(run)
    check_objective(model)
    vae_config, pretrained = _initial(model)
    accelerator = make_accelerator(optimization, run)
    repo = hub_repository(config.hub, run, accelerator)
    images = load_training_set(
        data, vae_config.get("in_channels"), vae_config.get("sample_size"), optimization.seed, accelerator
    )
    set_seed(optimization.seed)
    vae = build_vae(vae_config, images.resolution, images.channels)
    if pretrained is None:
        vae.pixel_mean.copy_(images.pixel_mean())
    else:
        _copy_weights(pretrained, vae, model.pretrained_model_name_or_path)
    objective = OBJECTIVES[model.objective](vae.likelihood)
    task = VAETask(
        objective,
        images.shape,
        vae.config.latent_size,
        model.num_latent_samples,
        model.kl_warmup_steps,
        optimization.seed,
    )
    return run_training(config, accelerator, images, vae, task, repo)


def check_objective(model: VAEArguments):
    """Raise `HfgenError` for flags of the objective that do not go together."""
    if model.objective == "iw" and model.kl_warmup_steps:
        raise HfgenError(
            f"kl_warmup_steps={model.kl_warmup_steps}: the importance-weighted bound has no KL term to weight; pass 0"
        )


def _initial(model: VAEArguments):
    """The config to build, and the trained model whose weights it takes, if any."""
    pretrained = None
    if model.pretrained_model_name_or_path is not None:
        pretrained = load_vae_pipeline(model.pretrained_model_name_or_path).vae
        config = {k: v for k, v in pretrained.config.items() if k != "_name_or_path"}
        config["_class_name"] = type(pretrained).__name__
    else:
        config = load_vae_config(model.model_config_name_or_path)
    for name in ("latent_size", "likelihood", "gaussian_variance"):
        value = getattr(model, name)
        if value is not None:
            config[name] = value
    if model.latent_bound is not None:
        config["latent_bound"] = model.latent_bound or None
    return config, pretrained


def _copy_weights(source, target, name: str):
    try:
        target.load_state_dict(source.state_dict())
    except RuntimeError as error:
        raise HfgenError(
            f"pretrained_model_name_or_path={name!r} has weights of other shapes than the images and flags ask for: "
            "leave --latent_size, --likelihood, --gaussian_variance and --resolution as they are there"
        ) from error
