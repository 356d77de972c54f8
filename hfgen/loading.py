"""Trained pipelines from a folder or the Hub; code in them is never run."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import DiffusionPipeline, UNet2DModel
from huggingface_hub import snapshot_download
from safetensors import SafetensorError

from hfgen.errors import HfgenError
from hfgen.hub.errors import hub_reason
from hfgen.pipelines import ClassConditionalDDPMPipeline, UnconditionalDiffusionPipeline, VAEPipeline
from hfgen.schedulers import PosteriorMeanDDPMScheduler

INDEX = "model_index.json"
WEIGHTS = "diffusion_pytorch_model*.safetensors"
DOWNLOADED = ["*.json", "*.safetensors"]
DIFFUSION_FILES = ("scheduler/scheduler_config.json", "unet/config.json", f"unet/{WEIGHTS}")
FILES = {
    UnconditionalDiffusionPipeline: DIFFUSION_FILES,
    ClassConditionalDDPMPipeline: DIFFUSION_FILES,
    VAEPipeline: ("vae/config.json", f"vae/{WEIGHTS}"),
}
WITH_CODE = (VAEPipeline, ClassConditionalDDPMPipeline)
OWN_SCHEDULERS = {"PosteriorMeanDDPMScheduler": PosteriorMeanDDPMScheduler}
Pipeline = UnconditionalDiffusionPipeline | ClassConditionalDDPMPipeline | VAEPipeline


def load_pipeline(
    path_or_repo: str | Path, revision: str | None = None, device: torch.device | str = "cpu"
) -> Pipeline:
    """A diffusion pipeline, unconditional or of classes, or a VAE's, from a folder or a repository on the Hub; code in it is never run.

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
        index = DiffusionPipeline._dict_from_json_file(path / INDEX)
        kind = _kind(name, index)
        missing = [p for p in FILES[kind] if not any(path.glob(p))]
        if missing:
            raise _no_pipeline(name, missing)
        scheduler = _own_scheduler(path, index) if kind is UnconditionalDiffusionPipeline else None
        if scheduler is None:
            pipeline = kind.from_pretrained(path, use_safetensors=True)
        else:
            unet = UNet2DModel.from_pretrained(path, subfolder="unet", use_safetensors=True)
            pipeline = UnconditionalDiffusionPipeline(unet, scheduler)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise HfgenError(
            f"{name} cannot be loaded, a file is damaged or missing ({reason}): fetch it or train it again"
        ) from error
    if kind is UnconditionalDiffusionPipeline and _conditional(pipeline.unet.config):
        raise HfgenError(
            f"{name} is conditioned on class labels, but does not say how many or which: hfgen samples class-conditional models "
            "that it has saved itself"
        )
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


def _own_scheduler(path: Path, index: dict):
    """The scheduler by hfgen's own class, of a repository that brings the code for it; None where diffusers has it."""
    named = index.get("scheduler")
    if not isinstance(named, list) or named[1] not in OWN_SCHEDULERS:
        return None
    return OWN_SCHEDULERS[named[1]].from_pretrained(path, subfolder="scheduler")


def _kind(name: str, index: dict) -> type:
    given = index.get("_class_name")
    module, cls = given if isinstance(given, list) and len(given) == 2 else (None, given)
    own = next((kind for kind in WITH_CODE if kind.__name__ == cls), None)
    if own is not None and module in (None, own.__module__.rpartition(".")[2]):
        return own
    if module is not None:
        raise HfgenError(
            f"{name} brings code of its own, which hfgen does not run: read it, then load it with "
            "DiffusionPipeline.from_pretrained(..., trust_remote_code=True)"
        )
    parts = {k: v[1] for k, v in index.items() if isinstance(v, list) and v[1] is not None}
    if set(parts) != {"unet", "scheduler"} or parts["unet"] != "UNet2DModel":
        raise HfgenError(
            f"{name} is a {given} of {', '.join(sorted(parts)) or 'no components'}: "
            "hfgen samples pipelines of a UNet2DModel and a scheduler, and VAEs"
        )
    return UnconditionalDiffusionPipeline
