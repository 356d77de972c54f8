"""What a kind of model brings to the training loop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from hfgen.trainer.training_set import TrainingSet

Terms = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Batch:
    """Images and the random numbers that belong to them.

    Attributes:
        x_0: images (B, C, H, W) in [-1, 1].
        noise: standard normal, (B, *task.noise_shape).
        uniform: on [0, 1), (B, task.uniforms).
        rows: int64 (B,), on the CPU, the images' numbers in their data.
        step: optimizer steps taken before this one.
        stratified: on [0, 1), (B,): of the n rows of the step's whole batch, row i has its number in [i / n, (i + 1) / n).
        labels: int64 (B,), classes; None where the data has none.
    """

    x_0: torch.Tensor
    noise: torch.Tensor
    uniform: torch.Tensor
    rows: torch.Tensor
    step: int
    stratified: torch.Tensor
    labels: torch.Tensor | None = None


class Task(Protocol):
    """Losses, pictures and the pipeline of one kind of model."""

    terms: tuple[str, ...]
    ylabel: str
    noise_shape: tuple[int, ...]
    uniforms: int
    states: tuple  # what else belongs to a checkpoint: objects with state_dict and load_state_dict

    def loss(self, model, batch: Batch) -> Terms:
        """What `terms` names, of each image, (B,): "loss" is minimised, all are logged."""

    def end_step(self) -> None:
        """Called after each optimizer step, whose micro-batches `loss` has seen."""

    def held_out_loss(self, model, batch: Batch) -> Terms:
        """The same for held-out images, whose noise and uniforms are those of every other evaluation."""

    def save_samples(self, model, path: Path) -> None:
        """Draw from the model and write a grid."""

    def save_pipeline(self, model, output_dir: Path) -> None:
        """Write the pipeline that users load."""

    def save_figures(self, output_dir: Path, images: TrainingSet, device: torch.device) -> None:
        """Write the pictures of a finished training beside its pipeline."""
