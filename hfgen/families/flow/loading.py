"""Flows from a folder."""

from __future__ import annotations

from pathlib import Path

from hfgen.core.errors import HfgenError, one_line
from hfgen.core.files import read_json
from hfgen.models.flow_presets import check_flow_fits
from hfgen.models.modeling_hfgen_flow import FlowModel
from hfgen.pipelines.pipeline_hfgen_flow import FlowPipeline


def load_pipeline(folder: Path, variant: str | None) -> FlowPipeline:
    """The pipeline by hfgen's own classes; `HfgenError` for a config that does not build."""
    config = read_json(folder / "flow" / "config.json")
    try:
        check_flow_fits({name: value for name, value in config.items() if not name.startswith("_")})
        flow = FlowModel.from_pretrained(folder, subfolder="flow", use_safetensors=True, variant=variant)
    except (ValueError, TypeError) as error:
        raise HfgenError(f"{folder}: {one_line(error, 300)}") from error
    return FlowPipeline(flow)
