"""All that is measured of a pipeline, by flags, so that it can be broken off and taken up again."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import torch

from hfgen.errors import HfgenError
from hfgen.evaluation.diffusion import evaluate_diffusion
from hfgen.evaluation.features import load_feature_network
from hfgen.evaluation.header import header
from hfgen.evaluation.report import save_json
from hfgen.evaluation.samples import Draws, RealImages, evaluate_samples, real_images
from hfgen.evaluation.vae import evaluate_vae
from hfgen.evaluation.vlb_figure import plot_terms
from hfgen.images import image_grid, save_png
from hfgen.pipelines import VAEPipeline
from hfgen.resume import Resumable

VAE_BATCH, SAMPLE_BATCH = 20, 64
NOT_SETTINGS = ("run", "out", "device", "pipeline", "revision", "batch_size", "models", "repeat")


def evaluate(pipeline, flags, out: Path | None) -> tuple[dict, torch.Tensor | None]:
    """The results that `flags` (those of `hfgen evaluate`) ask for, as JSON values, and the first samples, if any.

    Parts that are done are kept beside `out` until `write_results`. Raises `HfgenError` as `evaluate_diffusion`, `evaluate_vae`
    and `real_images`; what is wrong with the flags of samples is told before the likelihood is measured.
    """
    model = pipeline.vae if isinstance(pipeline, VAEPipeline) else pipeline.unet
    resumable = Resumable(partial_folder(out), evaluation_settings(flags, pipeline))
    try:
        return _evaluate(pipeline, model, flags, resumable)
    except HfgenError:
        resumable.finish_if_empty()
        raise


def _evaluate(pipeline, model, flags, resumable: Resumable):
    draws = network = real = None
    if flags.samples is not None:
        draws = Draws(
            pipeline,
            flags.samples,
            flags.steps,
            flags.scheduler,
            flags.seed,
            flags.batch_size or SAMPLE_BATCH,
            flags.sample_pixels,
            flags.guidance_scale,
            resumable,
            flags.compile,
            flags.eta,
        )
        network = load_feature_network(flags.features, pipeline.device)
        real = real_images(
            draws, network, flags.dataset_name, flags.split, flags.train_split, flags.dataset_config_name
        )
    results, shown = {}, None
    if flags.likelihood or draws is None:
        results = _likelihood(pipeline, flags, resumable)
    if draws is not None:
        measured, shown = evaluate_samples(draws, network, real)
        results = _merged(results, measured, real, model, flags)
    return results, shown


def write_results(results: dict, samples: torch.Tensor | None, out: Path) -> list[Path]:
    """The JSON file and its pictures beside it: OUT_terms.png, OUT_samples.png; the unfinished work is then removed."""
    written = [out]
    save_json(results, out)
    if "terms" in results:
        written.append(out.with_name(f"{out.stem}_terms.png"))
        plot_terms(results, written[-1])
    if samples is not None:
        written.append(out.with_name(f"{out.stem}_samples.png"))
        save_png(image_grid(samples), written[-1])
    shutil.rmtree(partial_folder(out), ignore_errors=True)
    return written


def partial_folder(out: Path | None) -> Path | None:
    """Where unfinished work lies."""
    return None if out is None else out.with_name(f".{out.name}.unfinished")


def evaluation_settings(flags, pipeline) -> dict:
    """What results depend on, as JSON values: the flags, the weights, the model's and the scheduler's config."""
    vae = isinstance(pipeline, VAEPipeline)
    model = pipeline.vae if vae else pipeline.unet
    scheduler = {} if vae else {"scheduler": _plain(pipeline.scheduler.config)}
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    values = {k: v for k, v in vars(flags).items() if k not in NOT_SETTINGS}
    of_model = {"weights": digest.hexdigest(), "config": _plain(model.config), "device": model.device.type}
    return values | of_model | scheduler


def _plain(config) -> dict:
    """As JSON values, without what does not matter: where it was loaded from, and by which version."""
    return json.loads(json.dumps({key: value for key, value in config.items() if not key.startswith("_")}))


def _likelihood(pipeline, flags, resumable) -> dict:
    common = {
        "dataset_name": flags.dataset_name,
        "split": flags.split,
        "max_images": flags.max_images,
        "dataset_config_name": flags.dataset_config_name,
        "seed": flags.seed,
        "resumable": resumable,
    }
    if isinstance(pipeline, VAEPipeline):
        return evaluate_vae(
            pipeline.vae, num_samples=flags.iw_samples, batch_size=flags.batch_size or VAE_BATCH, **common
        )
    evaluations = None if flags.exact else flags.evaluations
    return evaluate_diffusion(pipeline, evaluations=evaluations, batch_size=flags.batch_size, **common)


def _merged(results: dict, measured: dict, real: RealImages, model, flags) -> dict:
    """Both parts as one; without the first, its head."""
    metrics = {**results.get("metrics", {}), **measured.pop("metrics")}
    head = results or header(
        model, flags.dataset_name, real.fingerprint, flags.split, measured["reference"], flags.seed
    )
    return {**head, "metrics": metrics, "samples": measured}
