"""A trained model in hand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfgen.core.errors import HfgenError
from hfgen.families.base import Family

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

DIGEST_DIGITS = 32


@dataclass(frozen=True, kw_only=True)
class Model:
    """A pipeline with the family that knows it.

    Attributes:
        family: what it is.
        pipeline: the diffusers pipeline, for all that it can do itself.
        name: of its folder or repository.
        folder: where its files lie, None for a pipeline that was made in memory.
        variant: of its weights, such as "fp16", where they have no others.
    """

    family: Family
    pipeline: DiffusionPipeline
    name: str
    folder: Path | None = None
    variant: str | None = None

    @property
    def module(self) -> torch.nn.Module:
        """The network."""
        return self.family.module(self.pipeline)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(C, H, W) of its images, (F, C, H, W) of its clips."""
        return self.family.image_shape(self.pipeline)

    @property
    def parameters(self) -> int:
        """How many the network has."""
        return sum(p.numel() for p in self.module.parameters())

    def identity(self) -> dict[str, Any]:
        """What its samples and results depend on, as JSON values: a digest of the weights, the configs, the kind of device."""
        from hfgen.core.resume import tensors_digest

        configs = self.family.configs(self.pipeline)
        return {
            "weights": tensors_digest(self.module.state_dict()),
            "configs": {name: _without_origin(values) for name, values in configs.items()},
            "device": self.module.device.type,
        }

    def digest(self) -> str:
        """Of the weights and configs, in hexadecimal: two models of one digest draw the same and have the same results."""
        identity = self.identity()
        told = json.dumps([identity["weights"], identity["configs"]], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()[:DIGEST_DIGITS]

    def give_weights(self, module: torch.nn.Module, given: str | None, to_leave: str) -> None:
        """Load the network's weights into one made for other images and flags.

        Raises `HfgenError` for weights of other shapes; `given` is how the flag pretrained_model_name_or_path names this model, and
        `to_leave` names the flags that are to stay as they are there.
        """
        try:
            module.load_state_dict(self.module.state_dict())
        except RuntimeError as error:
            raise HfgenError(
                f"pretrained_model_name_or_path={given!r} has weights of other shapes than the images and flags ask for: leave "
                f"{to_leave} as they are there"
            ) from error

    def summary(self) -> str:
        """What it is, in a sentence."""
        told = self.family.card(self.pipeline, self.name, None, None).summary
        return told if self.variant is None else f"{told} Its weights are the variant {self.variant}."

    def _repr_html_(self) -> str:
        from html import escape

        return f"<p><b>{escape(self.name)}</b>: {escape(self.summary())}</p>"


def _without_origin(config: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON values, without what does not matter: where it was loaded from, and by which version."""
    return json.loads(json.dumps({key: value for key, value in config.items() if not key.startswith("_")}, default=str))
