"""Variational diffusion models from a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hfgen.core.errors import HfgenError, one_line
from hfgen.models.modeling_hfgen_vdm import VDMModel
from hfgen.pipelines.pipeline_hfgen_vdm import VDMPipeline


def load_pipeline(folder: Path, index: Mapping[str, Any], variant: str | None) -> VDMPipeline:
    """The pipeline by hfgen's own classes; `HfgenError` for a schedule that is damaged and a config that does not build."""
    try:
        vdm = VDMModel.from_pretrained(folder, subfolder="vdm", use_safetensors=True, variant=variant)
        return VDMPipeline(vdm, index.get("class_names"))
    except ValueError as error:
        raise HfgenError(f"{folder}: {one_line(error, 300)}") from error
