"""Autoencoders of diffusers, from a folder or the Hub, alone or as a part of a pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL

from hfgen.core.errors import HfgenError, one_line

# where pipelines keep it: most in vae, LDMPipeline in vqvae
PLACES = ("vae", "vqvae", None)
WAYS_OUT = "pass a folder or repository of an AutoencoderKL, or of a pipeline with one, such as training/train_autoencoder.py leaves"


def load_autoencoder(path_or_repo: str) -> AutoencoderKL:
    """An `AutoencoderKL` of a folder or a repository, there or in its subfolder `vae` or `vqvae`; evaluated, and not trained.

    Raises `HfgenError` for what is none, or cannot be reached or read, and for latents whose scale is no positive number.
    """
    folder = Path(path_or_repo).expanduser()
    place = str(folder) if folder.exists() else path_or_repo
    subfolder = _subfolder(place)
    try:
        found = AutoencoderKL.from_pretrained(place, subfolder=subfolder, use_safetensors=True)
    except Exception as error:  # of damaged files and wrong configs the loader raises anything
        raise _none(path_or_repo, one_line(error, 200)) from error
    scale = found.config.scaling_factor
    if not (isinstance(scale, (int, float)) and 0 < scale < float("inf")):
        raise HfgenError(
            f"{path_or_repo}: scaling_factor is {one_line(repr(scale), 60)} in its config.json: write a number above 0"
        )
    return without_shift(found).eval().requires_grad_(False)


def _subfolder(place: str) -> str | None:
    """That of the config of an autoencoder; None: it lies at the top."""
    last: Exception | None = None
    for subfolder in PLACES:
        if Path(place).exists() and not (Path(place) / (subfolder or "") / "config.json").is_file():
            continue
        try:
            kind = AutoencoderKL.load_config(place, subfolder=subfolder).get("_class_name")
        except (OSError, ValueError, TypeError) as error:
            last = error
            continue
        if kind == "AutoencoderKL":
            return subfolder
        last = TypeError(f"it is a {one_line(kind, 60)}")
    raise _none(place, "no config.json of one" if last is None else one_line(last, 200))


def _none(name: str, reason: str) -> HfgenError:
    return HfgenError(f"autoencoder={name!r} cannot be loaded ({reason}): {WAYS_OUT}")


@torch.no_grad()
def without_shift(autoencoder: Any) -> Any:
    """The same autoencoder with its `shift_factor` in its weights, where the pipelines that do not read it find it.

    The 1x1 convolutions at its latents take it: z - shift comes out of the encoder, and goes into the decoder. One that has none
    keeps its latents as they are, shift_factor then being 0: a model of latents learns their mean.
    """
    shift = autoencoder.config.shift_factor
    if shift:
        fold_shift(autoencoder, torch.full((autoencoder.config.latent_channels,), float(shift)))
    autoencoder.register_to_config(shift_factor=0.0)
    return autoencoder


@torch.no_grad()
def fold_shift(autoencoder: Any, shift: torch.Tensor) -> None:
    """Let the encoder's means be smaller by `shift`, (c,), and the decoder add it, exactly."""
    first, last = autoencoder.quant_conv, autoencoder.post_quant_conv
    if first is None or last is None:
        return
    shift = shift.to(first.bias)
    first.bias[: len(shift)] -= shift
    last.bias += last.weight[:, :, 0, 0] @ shift
