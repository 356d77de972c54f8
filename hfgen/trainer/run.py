"""What every training does around the loop: identity, output folder, trackers, curves."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import gather_object
from huggingface_hub.utils import disable_progress_bars

from hfgen.errors import HfgenError
from hfgen.evaluation.report import save_json
from hfgen.hub.card import TRAINING_FILE, refresh_card
from hfgen.hub.publish import check_account, publish_folder
from hfgen.loading import load_pipeline
from hfgen.trainer.config import DDPMConfig, HubArguments, RunArguments, VAEConfig
from hfgen.trainer.loop import Trainer
from hfgen.trainer.output import prepare_output_dir
from hfgen.trainer.record import training_record
from hfgen.trainer.task import Task
from hfgen.trainer.training_set import TrainingSet

SAMPLES = 64


def run_training(
    config: DDPMConfig | VAEConfig,
    accelerator: Accelerator,
    images: TrainingSet,
    model,
    task: Task,
    repo: str | None = None,
) -> Path:
    """Train `model` on `images` by `task`; returns the output folder, which holds the pipeline, pictures and a card.

    With `repo` the folder is pushed there in the end. Raises `HfgenError` as `Trainer` and `publish_folder` do; by the
    time of the latter all is on disk.
    """
    run = config.run
    identity = run_identity(config, len(images.train), dict(model.config))
    trainer = Trainer(
        accelerator,
        task,
        model,
        images.train,
        images.validation,
        config.data.random_flip,
        config.optimization,
        run,
        identity,
        images.train_labels,
        images.labels,
    )
    accelerator.print(
        f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(images.train)} training images of "
        f"{'x'.join(map(str, images.shape))}, held out: {images.held_out}, "
        f"{trainer.max_steps} steps of {trainer.batch_size} images"
    )
    if accelerator.is_main_process:
        prepare_output_dir(run)
    accelerator.wait_for_everyone()
    start_trackers(accelerator, identity)
    trainer.fit()
    accelerator.end_training()
    output_dir = Path(run.output_dir)
    if accelerator.is_main_process:
        _describe(config, trainer, images, task)
    accelerator.print(
        f"pipeline, pictures and card: {output_dir}\nnext: hfgen sample {output_dir} --out grid.png, hfgen publish {output_dir} REPO"
    )
    if repo is not None and accelerator.is_main_process:
        _push(config.hub, output_dir, repo)
    return output_dir


def _describe(config, trainer: Trainer, images: TrainingSet, task: Task):
    """Pictures, training.json and the card."""
    task.save_figures(trainer.output_dir, images, trainer.accelerator.device)
    save_json(training_record(config, trainer, images, task.ylabel), trainer.output_dir / TRAINING_FILE)
    refresh_card(trainer.output_dir, load_pipeline(trainer.output_dir))


def _push(hub: HubArguments, output_dir: Path, repo: str):
    disable_progress_bars()  # one that an error stops leaves no new line for the message
    try:
        print(f"pushed: {publish_folder(output_dir, repo, hub.hub_private_repo, token=hub.hub_token).url}")
    except HfgenError as error:
        command = ["hfgen", "publish", str(output_dir), repo, *(["--private"] if hub.hub_private_repo else [])]
        raise HfgenError(
            f"the training is complete in {output_dir}, but it was not pushed: {error}; later: `{shlex.join(command)}`"
        ) from error


def hub_repository(hub: HubArguments, run: RunArguments, accelerator: Accelerator) -> str | None:
    """The repository to push to, None without push_to_hub; call it on every process, before anything is trained.

    Raises `HfgenError` on all of them for a name or token that the Hub does not accept, and for flags without push_to_hub.
    """
    if not hub.push_to_hub:
        given = [name for name in ("hub_model_id", "hub_token", "hub_private_repo") if getattr(hub, name)]
        if given:
            raise HfgenError(f"{', '.join(given)} without push_to_hub pushes nothing: pass --push_to_hub")
        return None
    repo, failure = None, None
    if accelerator.is_main_process:
        try:
            repo = check_account(hub.hub_model_id or Path(run.output_dir).resolve().name, hub.hub_token)
        except HfgenError as error:
            failure = str(error)
    failures = [failure for failure in gather_object([failure]) if failure]
    if failures:
        raise HfgenError(f"push_to_hub: {failures[0]}")
    return repo


def run_identity(config: DDPMConfig | VAEConfig, train_images: int, model_config: dict) -> dict:
    """What must be the same for a checkpoint to be continued, as JSON values."""
    values = asdict(config.data) | asdict(config.model) | asdict(config.optimization)
    shared_out = ("train_batch_size", "gradient_accumulation_steps", "eval_batch_size", "compile", "cache_dir")
    length = ("num_epochs", "max_train_steps", "ddpm_num_inference_steps")
    network = {k: v for k, v in model_config.items() if not k.startswith("_")}
    return {k: v for k, v in values.items() if k not in shared_out + length} | {
        "train_images": train_images,
        "network": {k: list(v) if isinstance(v, tuple) else v for k, v in network.items()},
    }


def start_trackers(accelerator: Accelerator, identity: dict):
    """Start the logger with the run's flat values as its hyperparameters."""
    flat = {k: v for k, v in identity.items() if isinstance(v, (int, float, str, bool))}
    accelerator.init_trackers("hfgen", config=flat)
