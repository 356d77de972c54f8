"""The results of a diffusion model's bound on a split of a dataset."""

from __future__ import annotations

import time

import torch

from hfgen.evaluation.header import header
from hfgen.evaluation.images import load_evaluation_images
from hfgen.likelihood import DiffusionProcess, Estimate, exact_vlb, sampled_vlb
from hfgen.pipelines import ClassConditionalDDPMPipeline
from hfgen.resume import Resumable

NAMES = {
    "total": "variational bound (upper bound on the NLL)",
    "prior": "L_T = KL(q(x_T|x_0) || N(0, I))",
    "diffusion": "sum of L_{t-1} over t = 2..T",
    "reconstruction": "L_0 = -E log p(x_0|x_1)",
}
QUANTITY = "log-likelihood of 8-bit pixels"


def evaluate_diffusion(
    pipeline,
    dataset_name: str,
    split: str = "test",
    evaluations: int | None = 100_000,
    max_images: int | None = None,
    dataset_config_name: str | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    resumable: Resumable | None = None,
) -> dict:
    """The bound and its terms as JSON values: "metrics" in nats and in bits/dim, "terms" with L_0, ..., L_{T-1} in bits/dim.

    Of a class-conditional model the class is withheld. `evaluations` is the budget of network calls of the sampled estimate; None: every t for every image. Other arguments
    and errors as `load_evaluation_images`, `DiffusionProcess.from_scheduler`, `exact_vlb` and `sampled_vlb`.
    """
    process = DiffusionProcess.from_scheduler(pipeline.scheduler)
    config = pipeline.unet.config
    data = load_evaluation_images(
        dataset_name,
        split,
        config.in_channels,
        config.sample_size,
        pipeline.unet.device,
        max_images,
        dataset_config_name,
    )
    start = time.perf_counter()
    arguments = {"seed": seed, "batch_size": batch_size, "resumable": resumable}
    model = pipeline.unet
    if isinstance(pipeline, ClassConditionalDDPMPipeline):
        model = _Unlabelled(pipeline)
    if evaluations is None:
        bound = exact_vlb(model, process, data.images, **arguments)
    else:
        bound = sampled_vlb(model, process, data.images, evaluations, **arguments)
    return header(pipeline.unet, dataset_name, data.fingerprint, split, len(data.images), seed) | {
        "likelihood": "discretised Gaussian at t = 1",
        "quantity": QUANTITY,
        "T": process.num_steps,
        "prediction_type": process.prediction_type,
        "variance_type": process.variance_type,
        "evaluations": bound.evaluations,
        "exact": bound.exact,
        "metrics": _metrics(bound),
        "terms": _terms(bound),
        "seconds": time.perf_counter() - start,
    }


class _Unlabelled:
    """A class-conditional network with the class withheld: its bound is one on p(x), as that of other models."""

    def __init__(self, pipeline: ClassConditionalDDPMPipeline):
        self.unet, self.nothing = pipeline.unet.eval(), len(pipeline.class_names)
        self.device, self.dtype = pipeline.unet.device, pipeline.unet.dtype

    def eval(self):
        return self

    def __call__(self, x_t, timesteps):
        return self.unet(x_t, timesteps, class_labels=torch.full_like(timesteps, self.nothing))


def _metrics(bound) -> dict:
    metrics = {}
    for key, name in NAMES.items():
        nats = getattr(bound, key)
        for suffix, unit, value in (("_bits_per_dim", "bits/dim", bound.bits_per_dim(nats)), ("", "nats/image", nats)):
            metrics[f"vlb_{key}{suffix}"] = {
                "name": name,
                "mean": value.mean,
                "standard_error": value.standard_error,
                "unit": unit,
            }
    return metrics


def _terms(bound) -> dict:
    """Of each timestep; null where nothing was drawn."""
    scale = bound.bits_per_dim(Estimate(1.0, 0.0)).mean
    steps, error = (_finite(values * scale) for values in (bound.steps, bound.steps_error))
    return {"unit": "bits/dim", "mean": steps, "standard_error": error, "draws": bound.draws.tolist()}


def _finite(values) -> list[float | None]:
    return [value if value == value else None for value in values.tolist()]
