"""GANs from a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hfgen.core.errors import HfgenError, one_line
from hfgen.core.files import read_json
from hfgen.models.gan_presets import check_gan_fits
from hfgen.models.modeling_hfgen_gan import GANGenerator
from hfgen.pipelines.pipeline_hfgen_gan import GANPipeline


def load_pipeline(folder: Path, index: Mapping[str, Any], variant: str | None) -> GANPipeline:
    """The pipeline by hfgen's own classes; `HfgenError` for a config that does not build."""
    config = read_json(folder / "generator" / "config.json")
    try:
        check_gan_fits(GANGenerator, {name: value for name, value in config.items() if not name.startswith("_")})
        generator = GANGenerator.from_pretrained(folder, subfolder="generator", use_safetensors=True, variant=variant)
        return GANPipeline(generator, index.get("class_names"))
    except (ValueError, TypeError) as error:
        raise HfgenError(f"{folder}: {one_line(error, 300)}") from error
