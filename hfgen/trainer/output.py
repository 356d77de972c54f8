"""The output folder: what a training may write into it, and files that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from hfgen.configs.training import TrainingConfig
from hfgen.core.errors import HfgenError
from hfgen.hub.card import CARD_FILE, is_generated
from hfgen.trainer.checkpoints import UNFINISHED, remove_unfinished

OURS = (
    "checkpoint-*",
    f"{UNFINISHED}*",
    "samples",
    "logs",
    "unet",
    "scheduler",
    "vae",
    "pipeline_hfgen_*.py",
    "model_index.json",
    "history.jsonl",
    "training.json",
    "loss.png",
    "samples.png",
    "reconstructions.png",
    "interpolations.png",
    "latents.png",
    "manifold.png",
)


def check_output_dir(config: TrainingConfig) -> None:
    """Raise `HfgenError` for a non-empty output folder that is neither to be overwritten nor resumed, or no folder."""
    run, output_dir = config.run, config.output_dir
    if run.output_dir == "":
        raise HfgenError("output_dir='' is no name: name a folder")
    if output_dir.exists() and not output_dir.is_dir():
        raise HfgenError(f"output_dir={str(output_dir)!r} is a file: name a folder")
    occupied = output_dir.is_dir() and any(output_dir.iterdir())
    if occupied and not run.overwrite_output_dir and run.resume_from_checkpoint is None:
        raise HfgenError(
            f"output_dir={str(output_dir)!r} is not empty: pass --resume_from_checkpoint latest to go on, "
            "--overwrite_output_dir to replace it, or another folder"
        )


def make_output_dir(config: TrainingConfig) -> None:
    """Make the folder and clear what a killed training left half written in it; `HfgenError` when there can be none."""
    output_dir = config.output_dir
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HfgenError(
            f"output_dir={str(output_dir)!r} cannot be made ({error.strerror}): name another folder"
        ) from error
    remove_unfinished(output_dir)


def clear_output_dir(config: TrainingConfig) -> None:
    """With overwrite_output_dir remove what an earlier training wrote, and nothing else."""
    output_dir = config.output_dir
    if config.run.overwrite_output_dir and config.run.resume_from_checkpoint is None:
        for path in (p for pattern in OURS for p in output_dir.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if is_generated(output_dir / CARD_FILE):
            (output_dir / CARD_FILE).unlink()


def save_into(output_dir: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a folder beside, then move its files into `output_dir`, each replaced in one step."""
    beside = Path(tempfile.mkdtemp(prefix=f"{UNFINISHED}", dir=output_dir))
    try:
        write(beside)
        for path in sorted(p for p in beside.rglob("*") if p.is_file()):
            target = output_dir / path.relative_to(beside)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.chmod(0o644)  # safetensors leaves its files to their owner alone
            os.replace(path, target)
    except (OSError, RuntimeError) as error:
        raise HfgenError(f"the pipeline cannot be written to {output_dir} ({error}): make room and resume") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
