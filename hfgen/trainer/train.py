"""Train a model of any family: from a configuration to a pipeline on disk."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.nn import Module

from hfgen.configs.flags import check_ranges
from hfgen.configs.training import TrainingConfig
from hfgen.core.device import set_up_processor
from hfgen.core.ending import Interrupted
from hfgen.core.history import HISTORY_FILE
from hfgen.core.media import save_png
from hfgen.data.evaluation_images import EvaluationImages
from hfgen.data.origin import keep_place
from hfgen.data.stream_source import check_streaming
from hfgen.data.training_set import TrainingSet, load_training_set
from hfgen.evaluation.while_training import sample_quality
from hfgen.families.base import Family
from hfgen.families.model import Model
from hfgen.families.registry import get_family
from hfgen.hub.card import CARD_FILE, SAMPLES_PICTURE, is_generated, refresh_card
from hfgen.hub.loading import load
from hfgen.results import TRAINING_FILE
from hfgen.trainer.curves import CURVES_FILE, save_curves
from hfgen.trainer.loop import Trainer
from hfgen.trainer.output import claimed
from hfgen.trainer.push import hub_repository, push
from hfgen.trainer.record import run_identity, training_record
from hfgen.trainer.rehearsal import rehearse, without_progress_bars
from hfgen.trainer.setup import LOGS, end_training, make_accelerator, on_main_process
from hfgen.trainer.signals import Signals
from hfgen.trainer.training_images import TRAINING_IMAGES, training_images

SAMPLES_ANIMATION = "samples.gif"  # of a model of clips


def train(config: TrainingConfig) -> Path:
    """Train from a configuration; returns the output folder, which holds a pipeline, pictures and a card.

    Nothing stays on disk before the data, the model and the output folder have been checked, and nothing is trained before
    the pipeline has been saved and loaded once. Other trainings are kept out of the folder until the end.

    SIGTERM and SIGINT end it after a step, with a checkpoint and `Interrupted`; SIGUSR1 asks for a checkpoint.

    Raises `HfgenError` for input that cannot be used, a loss that is not finite, a disk that is full, and a Hub that
    fails; by the time of the latter all is on disk.
    """
    for group in config.groups:
        check_ranges(group)
    check_streaming(config.data, config.optimization)
    family = get_family(config.family).for_training(config)
    accelerator = make_accelerator(config)
    with Signals() as signals, ExitStack() as claim:
        on_main_process(accelerator, lambda: claim.enter_context(claimed(config)))
        return _train_in(config, family, accelerator, signals)


def _train_in(config: TrainingConfig, family: Family, accelerator: Accelerator, signals: Signals) -> Path:
    """`train`, once the output folder is this training's own."""
    pretrained = load_pretrained(config, family)
    config = family.resolved(config, pretrained)
    model_config = family.model_config(config, pretrained)
    set_up_processor(accelerator.device)
    repo = on_main_process(accelerator, partial(hub_repository, config))
    channels, resolution = family.image_config(config, model_config)
    images = load_training_set(
        config.data,
        channels=channels,
        resolution=resolution,
        seed=config.optimization.seed,
        accelerator=accelerator,
        batch_size=config.optimization.train_batch_size,
    )
    data = family.represented(config, images, accelerator.device, accelerator.is_local_main_process)
    asked, config = config, _with_preset(config, family, data)
    if config is not asked:
        model_config = family.model_config(config, pretrained)
    set_seed(config.optimization.seed)
    module = family.build(config, model_config, data, pretrained)
    trainer = Trainer(
        accelerator=accelerator,
        task=family.task(config, module, data),
        module=module,
        images=data,
        config=config,
        identity=run_identity(config, images, dict(module.config)) | data.representation.identity,
        signals=signals,
        quality=sample_quality(config, family, images, accelerator.device),
    )
    accelerator.print(_told(trainer, images, chosen=config is not asked), *images.told, sep="\n")
    hint = _hint(trainer, family)
    if hint is not None:
        accelerator.print(hint)
    with trainer.layout.whole() as network:
        on_main_process(accelerator, partial(_prepare, trainer, family, network, images))
    _start_trackers(trainer)
    try:
        trainer.fit()
    except Interrupted:
        end_training(accelerator)
        raise
    on_main_process(accelerator, partial(_describe, trainer, family, images))
    end_training(accelerator)  # after it the processes cannot speak to each other any more
    out = config.output_dir
    look = f"sample {out} {family.asks and f'{family.asks} '}--out grid.png" if family.draws else f"evaluate {out}"
    accelerator.print(f"pipeline, pictures and card: {out}\nnext: hfgen {look}, hfgen publish {out} REPO")
    if repo is not None and accelerator.is_main_process:
        push(config, repo)
    return config.output_dir


def load_pretrained(config: TrainingConfig, family: Family) -> Model | None:
    """The model to start from, None without one; `HfgenError` for one of another family."""
    name = getattr(config.model, "pretrained_model_name_or_path", None)
    if name is None:
        return None
    model = load(name)
    family.check_pretrained(model, config)
    return model


def _with_preset(config: TrainingConfig, family: Family, images: TrainingSet) -> TrainingConfig:
    """The configuration with the name of the preset for these images, where it names no model."""
    named = {"model_config_name_or_path", "pretrained_model_name_or_path", "pretrained_autoencoder"} & {
        f.name for f in fields(config.model)
    }
    name = family.preset(images.shape)
    if name is None or any(getattr(config.model, flag) is not None for flag in named):
        return config
    return replace(config, model=replace(config.model, model_config_name_or_path=name))


def _told(trainer: Trainer, images: TrainingSet, chosen: bool) -> str:
    """What is trained on what; `chosen`: the preset follows from the images."""
    model, seen = trainer.config.model, trainer.images.shape
    preset = f"preset {model.model_config_name_or_path}, chosen by the images' shape, " if chosen else ""
    latents = "" if seen == images.shape else f" as latents of {'x'.join(map(str, seen))}"
    return (
        f"{preset}{sum(p.numel() for p in trainer.module.parameters()):,} parameters, {images.amount} of "
        f"{'x'.join(map(str, images.shape))}{latents}, held out: {images.held_out}, "
        f"{trainer.max_steps} steps of {trainer.batch_size} images"
    )


def _hint(trainer: Trainer, family: Family) -> str | None:
    """A line where another preset suits the images better than the one that is taken."""
    flags = trainer.config.model
    name = getattr(flags, "model_config_name_or_path", None)
    if name is None or getattr(flags, "pretrained_model_name_or_path", None) is not None:
        return None
    shape, on_gpu = trainer.images.shape, trainer.accelerator.device.type != "cpu"
    better = family.better_preset(name, shape, on_gpu)
    if better is None:
        return None
    return (
        f"hint: for images of {'x'.join(map(str, shape))} on a {'GPU' if on_gpu else 'CPU'} the preset {better} suits better than "
        f"{name}: --model_config_name_or_path {better}"
    )


def _prepare(trainer: Trainer, family: Family, network: Module, images: TrainingSet) -> None:
    """The output folder; what is in it is only replaced once the new training is known to come to an end."""
    run, output = trainer.run, trainer.output
    with output.beside() as beside:
        rehearse(family, trainer.task, network, beside)
    output.begin(HISTORY_FILE, overwrite=run.overwrite_output_dir and run.resume_from_checkpoint is None)
    save_png(training_images(images, trainer.optimization.seed), output.own(TRAINING_IMAGES))


def _start_trackers(trainer: Trainer) -> None:
    """Their files become the training's."""
    accelerator, output = trainer.accelerator, trainer.output
    before = output.files_below(LOGS)
    flat = {k: v for k, v in trainer.identity.items() if isinstance(v, (int, float, str, bool))}
    accelerator.init_trackers("hfgen", config=flat)
    if accelerator.is_main_process:
        output.manifest.add(*(output.files_below(LOGS) - before))


def _describe(trainer: Trainer, family: Family, images: TrainingSet) -> None:
    """Pictures, training.json and the card."""
    output = trainer.output
    out = output.path
    with without_progress_bars():
        model = load(out, device=trainer.accelerator.device)
    held_out = EvaluationImages(
        images=images.validation,
        labels=images.labels,
        class_names=images.class_names,
        companions=images.companions,
    )
    output.manifest.add(TRAINING_FILE, CURVES_FILE, *_pictures(model, out), *_own_card(out))
    keep_place(out, trainer.config.data)
    training_record(trainer, family.name, images).save(out / TRAINING_FILE)
    save_curves(out, out)
    family.figures(model.pipeline, held_out, out=out, seed=trainer.optimization.seed, training=out)
    refresh_card(model, after_training=True)
    output.manifest.forget_missing()


def _pictures(model: Model, out: Path) -> list[str]:
    """The names of the figures that may be drawn; one that is there already, and not listed, is not a training's."""
    told = model.family.card(model.pipeline, model.name, None, None).pictures
    names = [SAMPLES_PICTURE, SAMPLES_ANIMATION, *(f"{name}.png" for name in told)]
    return [name for name in names if not (out / name).exists()]


def _own_card(out: Path) -> list[str]:
    """The card's name unless somebody has written it, who keeps it."""
    return [CARD_FILE] if not (out / CARD_FILE).exists() or is_generated(out / CARD_FILE) else []
