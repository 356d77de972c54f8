"""Train a model of any family: from a configuration to a pipeline on disk."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from accelerate.utils import set_seed

from hfgen.configs.flags import check_ranges
from hfgen.configs.training import TrainingConfig
from hfgen.core.device import use_share_of_cores
from hfgen.data.evaluation_images import EvaluationImages
from hfgen.data.training_set import load_training_set
from hfgen.families.base import Family
from hfgen.families.registry import get_family
from hfgen.hub.card import refresh_card
from hfgen.hub.loading import load
from hfgen.results import TRAINING_FILE
from hfgen.trainer.curves import save_curves
from hfgen.trainer.loop import Trainer
from hfgen.trainer.output import check_output_dir, clear_output_dir, make_output_dir
from hfgen.trainer.push import hub_repository, push
from hfgen.trainer.record import run_identity, training_record
from hfgen.trainer.rehearsal import rehearse, without_progress_bars
from hfgen.trainer.setup import make_accelerator, on_main_process


def train(config: TrainingConfig) -> Path:
    """Train from a configuration; returns the output folder, which holds a pipeline, pictures and a card.

    Nothing is written before the data, the model and the output folder have been checked, and nothing is trained before
    the pipeline has been saved and loaded once.

    Raises `HfgenError` for input that cannot be used, a loss that is not finite, a disk that is full, and a Hub that
    fails; by the time of the latter all is on disk.
    """
    for group in config.groups:
        check_ranges(group)
    family = get_family(config.family).for_training(config)
    check_output_dir(config)
    model_config = family.model_config(config)
    accelerator = make_accelerator(config)
    use_share_of_cores(accelerator.device)
    repo = on_main_process(accelerator, partial(hub_repository, config))
    images = load_training_set(
        config.data,
        channels=model_config.get("in_channels"),
        resolution=model_config.get("sample_size"),
        seed=config.optimization.seed,
        accelerator=accelerator,
    )
    set_seed(config.optimization.seed)
    module = family.build(config, model_config, images)
    trainer = Trainer(
        accelerator=accelerator,
        task=family.task(config, module, images),
        module=module,
        images=images,
        config=config,
        identity=run_identity(config, len(images.train), dict(module.config)),
    )
    accelerator.print(_told(trainer))
    on_main_process(accelerator, partial(_prepare, trainer, family))
    flat = {k: v for k, v in trainer.identity.items() if isinstance(v, (int, float, str, bool))}
    accelerator.init_trackers("hfgen", config=flat)
    trainer.fit()
    accelerator.end_training()
    on_main_process(accelerator, partial(_describe, trainer, family))
    accelerator.print(
        f"pipeline, pictures and card: {config.output_dir}\n"
        f"next: hfgen sample {config.output_dir} --out grid.png, hfgen publish {config.output_dir} REPO"
    )
    if repo is not None:
        push(config, repo)
    return config.output_dir


def _told(trainer: Trainer) -> str:
    images = trainer.images
    return (
        f"{sum(p.numel() for p in trainer.module.parameters()):,} parameters, {len(images.train)} training images of "
        f"{'x'.join(map(str, images.shape))}, held out: {images.held_out}, "
        f"{trainer.max_steps} steps of {trainer.batch_size} images"
    )


def _prepare(trainer: Trainer, family: Family) -> None:
    """The output folder; what is in it is only replaced once the new training is known to come to an end."""
    made = not trainer.output_dir.exists()
    make_output_dir(trainer.config)
    try:
        rehearse(family, trainer.task, trainer.module, trainer.output_dir)
    except BaseException:
        if made:
            trainer.output_dir.rmdir()
        raise
    clear_output_dir(trainer.config)


def _describe(trainer: Trainer, family: Family) -> None:
    """Pictures, training.json and the card."""
    out, images = trainer.output_dir, trainer.images
    with without_progress_bars():
        model = load(out, device=trainer.accelerator.device)
    held_out = EvaluationImages(images=images.validation, labels=images.labels, class_names=images.class_names)
    training_record(trainer, family.name).save(out / TRAINING_FILE)
    save_curves(out, out)
    family.figures(model.pipeline, held_out, out, trainer.optimization.seed, out)
    refresh_card(model)
