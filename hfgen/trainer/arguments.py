"""Flags and a YAML file into dataclasses."""

from __future__ import annotations

import math
import sys
from dataclasses import fields
from pathlib import Path

import yaml
from transformers import HfArgumentParser

from hfgen.errors import HfgenError
from hfgen.trainer.config import (
    DataArguments,
    DDPMConfig,
    DiffusionArguments,
    HubArguments,
    OptimizationArguments,
    RunArguments,
    VAEArguments,
    VAEConfig,
    VAERunArguments,
)

POSITIVE = (
    "train_batch_size eval_batch_size num_epochs max_train_steps gradient_accumulation_steps checkpointing_steps "
    "checkpoints_total_limit save_model_epochs logging_steps ddpm_num_steps ddpm_num_inference_steps resolution "
    "max_train_samples learning_rate adam_epsilon ema_inv_gamma latent_size gaussian_variance num_latent_samples snr_gamma"
).split()
NOT_NEGATIVE = "lr_warmup_steps max_grad_norm save_images_epochs seed adam_weight_decay ema_power kl_warmup_steps latent_bound".split()
YAML_NULLS = ("", "~", "null")
BELOW_ONE = "adam_beta1 adam_beta2 ema_max_decay class_dropout".split()


class _Parser(HfArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message}; see --help\n")


def parse_ddpm_config(argv: list[str] | None = None) -> DDPMConfig:
    """The configuration of train_ddpm.py from flags; errors as `parse_arguments`."""
    groups = (DataArguments, DiffusionArguments, OptimizationArguments, RunArguments, HubArguments)
    return DDPMConfig(*parse_arguments(groups, argv, "Train a DDPM (Ho et al. 2020) on images."))


def parse_vae_config(argv: list[str] | None = None) -> VAEConfig:
    """The configuration of train_vae.py from flags; errors as `parse_arguments`."""
    groups = (DataArguments, VAEArguments, OptimizationArguments, VAERunArguments, HubArguments)
    return VAEConfig(*parse_arguments(groups, argv, "Train a VAE (Kingma & Welling 2014) on images."))


def parse_arguments(dataclass_types, argv: list[str] | None = None, description: str = "") -> tuple:
    """One instance per dataclass: its defaults, overridden by the YAML of --config, overridden by flags.

    Raises `HfgenError` for a YAML file that cannot be read, one with unknown keys, and numbers out of range.
    A wrong flag ends the process with status 2, as argparse does.
    """
    usage = "%(prog)s [--config FILE.yaml] [--FLAG VALUE ...]"
    parser = _Parser(dataclass_types, usage=usage, description=description, allow_abbrev=False)
    argv = sys.argv[1:] if argv is None else list(argv)
    path = parser.parse_known_args(argv)[0].config
    if path is not None:
        argv = [*_yaml_flags(path, dataclass_types), *argv]
    *groups, unknown = parser.parse_args_into_dataclasses(argv, return_remaining_strings=True, look_for_args_file=False)
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    for group in groups:
        _check_ranges(group)
    return tuple(groups)


def _yaml_flags(path: str, dataclass_types) -> list[str]:
    """The YAML file as command-line words, so that argparse checks its values as it does flags."""
    try:
        # plain text for every value: YAML's own types would turn `mixed_precision: no` into False
        values = yaml.load(Path(path).read_text(), Loader=yaml.BaseLoader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise HfgenError(
            f"config={path!r} cannot be read ({' '.join(str(error).split())}): pass a YAML file of flags"
        ) from error
    if not isinstance(values, dict):
        raise HfgenError(f"config={path!r} holds no flags: write lines such as `learning_rate: 1.0e-4`")
    known = {f.name for group in dataclass_types for f in fields(group)} - {"config"}
    unknown = [str(key) for key in values if key not in known]
    if unknown:
        raise HfgenError(f"config={path!r} has unknown keys: {', '.join(unknown)}; --help lists the flags")
    nested = [key for key, value in values.items() if not isinstance(value, str)]
    if nested:
        raise HfgenError(f"config={path!r}: {', '.join(nested)} is no single value; write one value a key")
    return [f"--{key}={value}" for key, value in values.items() if value not in YAML_NULLS]


def _check_ranges(group):
    for names, accepts, rule in (
        (POSITIVE, lambda v: 0 < v < math.inf, "greater than 0"),
        (NOT_NEGATIVE, lambda v: 0 <= v < math.inf, "0 or greater"),
        (BELOW_ONE, lambda v: 0 <= v < 1, "from 0 to below 1"),
        (["seed"], lambda v: v < 2**32, "below 2**32"),
    ):
        for name in names:
            value = getattr(group, name, None)
            if value is not None and not accepts(value):
                raise HfgenError(f"{name}={value}: it must be {rule}")
