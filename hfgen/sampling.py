"""Images from a trained pipeline: load one from a folder or the Hub, sample it with one seed for each image."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
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
from tqdm.auto import tqdm

from hfgen.data.order import Stream, seeded
from hfgen.errors import HfgenError
from hfgen.images import image_grid, to_uint8
from hfgen.pipelines import UnconditionalDiffusionPipeline

TRAJECTORY_IMAGES = 16
TRAJECTORY_FRAMES = 50
INDEX = "model_index.json"
FILES = (INDEX, "scheduler/scheduler_config.json", "unet/config.json", "unet/diffusion_pytorch_model*.safetensors")


@dataclass(frozen=True)
class Samples:
    """Sampled images and how long they took.

    Attributes:
        images: uint8 (N, C, H, W).
        trajectory: uint8 (frames, M, C, H, W), the first M <= 16 images from noise to result; None if not asked for.
        seconds: of denoising.
    """

    images: torch.Tensor
    trajectory: torch.Tensor | None
    seconds: float


def pick_device(name: str | None = None) -> torch.device:
    """The named device, or the first of cuda, mps and cpu that is there; `HfgenError` for one that is not."""
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise HfgenError(f"device {name!r} is not available here: use another, such as cpu") from error
    return device


def load_pipeline(
    path_or_repo: str | Path, revision: str | None = None, device: torch.device | str = "cpu"
) -> UnconditionalDiffusionPipeline:
    """An unconditional image diffusion pipeline from a folder or a repository on the Hub; code in it is never run.

    Raises `HfgenError` when there is no such folder or repository, no network, a file missing or broken, weights that
    are not safetensors, or another kind of pipeline.
    """
    name = str(path_or_repo)
    path = Path(name).expanduser()
    if path.is_dir():
        _check_folder(path)
        name, index = str(path), path / INDEX
    elif path.exists():
        raise HfgenError(f"{name} is a file: pass the folder that holds {INDEX}, or a repository on the Hub")
    elif name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise HfgenError(f"{name} does not exist: pass a pipeline's folder, or a repository on the Hub as user/name")
    else:
        index = _download_index(name, revision)
    try:
        _check_kind(name, DiffusionPipeline._dict_from_json_file(index))
        pipeline = UnconditionalDiffusionPipeline.from_pretrained(name, revision=revision, use_safetensors=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise HfgenError(
            f"{name} cannot be loaded, a file is damaged or missing ({reason}): fetch it or train it again"
        ) from error
    if pipeline.unet.config.num_class_embeds is not None or pipeline.unet.config.class_embed_type is not None:
        raise HfgenError(f"{name} is conditioned on class labels: hfgen samples unconditional models")
    return pipeline.to(device)


def _check_folder(folder: Path):
    missing = [pattern for pattern in FILES if not any(folder.glob(pattern))]
    if missing:
        raise HfgenError(
            f"{folder} is not a folder of an unconditional diffusion pipeline, {', '.join(missing)} missing: "
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


def _check_kind(name: str, index: dict):
    if isinstance(index.get("_class_name"), list):
        raise HfgenError(
            f"{name} brings code of its own, which hfgen does not run: read it, then load it with "
            "DiffusionPipeline.from_pretrained(..., trust_remote_code=True)"
        )
    parts = {k: v[1] for k, v in index.items() if isinstance(v, list) and v[1] is not None}
    if set(parts) != {"unet", "scheduler"} or parts["unet"] != "UNet2DModel":
        raise HfgenError(
            f"{name} is a {index.get('_class_name')} of {', '.join(sorted(parts)) or 'no components'}: "
            "hfgen samples unconditional pipelines, a UNet2DModel and a scheduler"
        )


def generate(
    pipeline: UnconditionalDiffusionPipeline,
    num_images: int,
    num_inference_steps: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    eta: float = 0.0,
    trajectory: bool = False,
) -> Samples:
    """Sample images, the noise of image i drawn from a generator of its own, seeded by (seed, i).

    Image i is therefore the same whatever `num_images` and `batch_size` are, but for the rounding of the UNet, whose
    matrix products sum in another order for another batch: at times a pixel differs by one of its 256 levels.
    The generators lie on the pipeline's device; another kind of device draws other images.

    Raises `HfgenError` for arguments out of range (see `UnconditionalDiffusionPipeline`) and for a full GPU.
    """
    for name, value, least in (("num_images", num_images, 1), ("batch_size", batch_size, 1), ("seed", seed, 0)):
        if value < least:
            raise HfgenError(f"{name}={value}: use {least} or more")
    quiet = UnconditionalDiffusionPipeline(pipeline.unet, pipeline.scheduler)
    quiet.set_progress_bar_config(disable=True)
    steps = num_inference_steps or min(1000, pipeline.scheduler.config.num_train_timesteps)
    try:
        quiet.check_inputs(1, None, steps, eta, "pt")
        calls = len(quiet.set_timesteps(steps))
    except ValueError as error:
        raise HfgenError(str(error)) from error
    recorder = _Recorder(calls, min(num_images, TRAJECTORY_IMAGES)) if trajectory else None
    draw_on = "cpu" if quiet.device.type == "mps" else quiet.device
    batches, start = [], time.perf_counter()
    with tqdm(total=calls * -(-num_images // batch_size), desc="denoising", unit="step") as bar:

        def on_step(_pipeline, step, _timestep, tensors):
            bar.update()
            if recorder is not None:
                recorder(step, tensors["latents"])

        for first in range(0, num_images, batch_size):
            generators = [
                seeded(draw_on, seed, Stream.SAMPLES, i) for i in range(first, min(num_images, first + batch_size))
            ]
            x_0 = _sample(quiet, generators, steps, eta, on_step) * 2 - 1
            batches.append(to_uint8(x_0).cpu())
    images = torch.cat(batches)
    frames = recorder.frames(images) if recorder is not None else None
    return Samples(images, frames, time.perf_counter() - start)


def _sample(pipeline, generators, steps, eta, on_step):
    try:
        return pipeline(len(generators), generators, steps, eta, "pt", callback_on_step_end=on_step).images
    except torch.cuda.OutOfMemoryError as error:
        raise HfgenError(
            f"{len(generators)} images at once do not fit on {pipeline.device}: lower batch_size"
        ) from error


class _Recorder:
    """Keeps the first `count` images at about 50 evenly chosen of `calls` steps; batches come in order."""

    def __init__(self, calls: int, count: int):
        self.count = count
        chosen = np.linspace(0, calls - 1, min(calls, TRAJECTORY_FRAMES)).round().astype(int)
        self.kept = {int(step): [] for step in chosen}

    def __call__(self, step: int, x: torch.Tensor):
        missing = self.count - sum(len(part) for part in self.kept.get(step, []))
        if step in self.kept and missing > 0:
            # samples of variance-exploding schedulers grow with the noise: show them at the scale of an image
            rms = x.square().mean(dim=(1, 2, 3), keepdim=True).sqrt().clamp(min=1)
            self.kept[step].append(to_uint8(x / rms)[:missing])

    def frames(self, images: torch.Tensor) -> torch.Tensor:
        noisy = [torch.cat(parts).cpu() for parts in self.kept.values()]
        return torch.stack([*noisy[:-1], images[: self.count]])


def trajectory_grids(trajectory: torch.Tensor) -> list:
    """A grid (PIL image) for each frame of `Samples.trajectory`."""
    return [image_grid(frame) for frame in trajectory]
