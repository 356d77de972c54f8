"""Trained pipelines from a folder or the Hub; code in them is never run."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError

from hfgen.errors import HfgenError
from hfgen.pipelines import UnconditionalDiffusionPipeline, VAEPipeline

INDEX = "model_index.json"
WEIGHTS = "diffusion_pytorch_model*.safetensors"
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
    if path.is_dir():
        name, index = str(path), path / INDEX
        if not index.is_file():
            raise _no_pipeline(path, [INDEX])
    elif path.exists():
        raise HfgenError(f"{name} is a file: pass the folder that holds {INDEX}, or a repository on the Hub")
    elif name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise HfgenError(f"{name} does not exist: pass a pipeline's folder, or a repository on the Hub as user/name")
    else:
        index = _download_index(name, revision)
    try:
        kind = _kind(name, DiffusionPipeline._dict_from_json_file(index))
        missing = [p for p in FILES[kind] if path.is_dir() and not any(path.glob(p))]
        if missing:
            raise _no_pipeline(path, missing)
        pipeline = kind.from_pretrained(name, revision=revision, use_safetensors=True)
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


def _no_pipeline(folder: Path, missing: list[str]) -> HfgenError:
    return HfgenError(
        f"{folder} is not a folder of a diffusion or VAE pipeline, {', '.join(missing)} missing: "
        "pass the --output_dir of a finished training, or what save_pretrained wrote with safe_serialization"
    )


def _download_index(repo: str, revision: str | None) -> Path:
    try:
        return Path(hf_hub_download(repo, INDEX, revision=revision))
    except HFValidationError as error:
        raise HfgenError(
            f"{repo!r} is neither a folder here nor a repository name: pass a path or user/name"
        ) from error
    except RevisionNotFoundError as error:
        raise HfgenError(f"{repo} has no revision {revision!r}: pass a branch, tag or commit that it has") from error
    except RepositoryNotFoundError as error:
        raise HfgenError(
            f"{repo} is neither a folder here nor a repository on the Hub: check the name, or for a private one "
            "log in with `hf auth login`"
        ) from error
    except LocalEntryNotFoundError as error:
        raise HfgenError(
            f"{repo} is no folder here, is not in the cache, and the Hub cannot be reached: "
            "check the path, or the network and HF_HUB_OFFLINE"
        ) from error
    except EntryNotFoundError as error:
        raise HfgenError(f"{repo} on the Hub has no {INDEX}: it is no diffusers pipeline, name another") from error
    except (HfHubHTTPError, OSError) as error:
        raise HfgenError(f"{repo} cannot be fetched ({str(error).splitlines()[0]}): try again later") from error


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
