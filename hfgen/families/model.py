"""A trained model in hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hfgen.families.base import Family

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline


@dataclass(frozen=True, kw_only=True)
class Model:
    """A pipeline with the family that knows it.

    Attributes:
        family: what it is.
        pipeline: the diffusers pipeline, for all that it can do itself.
        name: of its folder or repository.
        folder: where its files lie, None for a pipeline that was made in memory.
    """

    family: Family
    pipeline: DiffusionPipeline
    name: str
    folder: Path | None = None

    @property
    def module(self) -> torch.nn.Module:
        """The network."""
        return self.family.module(self.pipeline)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of its images."""
        return self.family.image_shape(self.pipeline)

    @property
    def parameters(self) -> int:
        """How many the network has."""
        return sum(p.numel() for p in self.module.parameters())

    def summary(self) -> str:
        """What it is, in a sentence."""
        return self.family.card(self.pipeline, self.name, None, None).summary

    def _repr_html_(self) -> str:
        from html import escape

        return f"<p><b>{escape(self.name)}</b>: {escape(self.summary())}</p>"
