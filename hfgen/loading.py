"""Trained pipelines from a folder or the Hub; code in them is never run."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from huggingface_hub import snapshot_download
from safetensors import SafetensorError

from hfgen.errors import HfgenError
from hfgen.hub.errors import hub_reason
from hfgen.pipelines import UnconditionalDiffusionPipeline, VAEPipeline

INDEX = "model_index.json"
WEIGHTS = "diffusion_pytorch_model*.safetensors"
DOWNLOADED = ["*.json", "*.safetensors"]
FILES = {
    UnconditionalDiffusionPipeline: ("scheduler/scheduler_config.json", "unet/config.json", f"unet/{WEIGHTS}"),
    VAEPipeline: ("vae/config.json", f"vae/{WEIGHTS}"),
}


def load_pipeline(
    path_or_repo: str | Path, revision: str | None = None, device: torch.device | str = "cpu"
) -> UnconditionalDiffusionPipeline | VAEPipeline:
    """An unconditional diffusion pipeline or a VAE's, from a folder or a repository on the Hub; code in it is never run.

    Raises `HfgenError` when there is no such folder or repository, no network, a file missing or broken, weights that
    are not safetensors, or another kind of pipeline.
    """
    name = str(path_or_repo)
    path = Path(name).expanduser()
    if path.exists() and not path.is_dir():
        raise HfgenError(f"{name} is a file: pass the folder that holds {INDEX}, or a repository on the Hub")
    if not path.is_dir():
        if name.startswith(("/", ".", "~")) or name.count("/") > 1:
            raise HfgenError(
                f"{name} does not exist: pass a pipeline's folder, or a repository on the Hub as user/name"
            )
        path = _download(name, revision)
    if not (path / INDEX).is_file():
        raise _no_pipeline(name, [INDEX])
    try:
        kind = _kind(name, DiffusionPipeline._dict_from_json_file(path / INDEX))
        missing = [p for p in FILES[kind] if not any(path.glob(p))]
        if missing:
            raise _no_pipeline(name, missing)
        pipeline = kind.from_pretrained(path, use_safetensors=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise HfgenError(
            f"{name} cannot be loaded, a file is damaged or missing ({reason}): fetch it or train it again"
        ) from error
    if kind is UnconditionalDiffusionPipeline and _conditional(pipeline.unet.config):
        raise HfgenError(f"{name} is conditioned on class labels: hfgen samples unconditional models")
    return pipeline.to(device)


def load_vae_pipeline(
    path_or_repo: str | Path, revision: str | None = None, device: torch.device | str = "cpu"
) -> VAEPipeline:
    """As `load_pipeline`; `HfgenError` for a pipeline that is not a VAE's."""
    pipeline = load_pipeline(path_or_repo, revision, device)
    if not isinstance(pipeline, VAEPipeline):
        raise HfgenError(f"{path_or_repo} is a diffusion model: this needs a VAE, such as training/train_vae.py leaves")
    return pipeline


def _conditional(config) -> bool:
    return config.num_class_embeds is not None or config.class_embed_type is not None


def _no_pipeline(name: str, missing: list[str]) -> HfgenError:
    return HfgenError(
        f"{name} is not a diffusion or VAE pipeline, {', '.join(missing)} missing: "
        "pass the --output_dir of a finished training, or what save_pretrained wrote with safe_serialization"
    )


def _download(repo: str, revision: str | None) -> Path:
    """The repository's weights and configs in the Hub's cache; without a network those that lie there."""
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=DOWNLOADED))
    except Exception as error:  # the client lets the errors of its HTTP library through
        raise HfgenError(hub_reason(error, repo, revision)) from error


def _kind(name: str, index: dict) -> type:
    if index.get("_class_name") in (VAEPipeline.__name__, ["pipeline_hfgen_vae", VAEPipeline.__name__]):
        return VAEPipeline
    if isinstance(index.get("_class_name"), list):
        raise HfgenError(
            f"{name} brings code of its own, which hfgen does not run: read it, then load it with "
            "DiffusionPipeline.from_pretrained(..., trust_remote_code=True)"
        )
    parts = {k: v[1] for k, v in index.items() if isinstance(v, list) and v[1] is not None}
    if set(parts) != {"unet", "scheduler"} or parts["unet"] != "UNet2DModel":
        raise HfgenError(
            f"{name} is a {index.get('_class_name')} of {', '.join(sorted(parts)) or 'no components'}: "
            "hfgen samples unconditional pipelines, a UNet2DModel and a scheduler, and VAEs"
        )
    return UnconditionalDiffusionPipeline
