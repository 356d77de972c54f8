"""What every file of results begins with."""

from __future__ import annotations

from pathlib import Path

from hfgen.environment import environment


def header(model, dataset_name: str, fingerprint: str, split: str, images: int, seed: int) -> dict:
    """Which model on which data: so many `images` of a split; of a local dataset its folder's name alone."""
    return {
        "kind": "VAE" if "latent_size" in model.config else "diffusion",
        "parameters": sum(p.numel() for p in model.parameters()),
        "dataset": shown_dataset(dataset_name),
        "dataset_fingerprint": fingerprint,
        "split": split,
        "images": images,
        "seed": seed,
        "environment": environment(model.device),
    }


def shown_dataset(name: str) -> str:
    """A repository's name, or of a local folder the last part of its path."""
    return Path(name).resolve().name if Path(name).exists() else name
