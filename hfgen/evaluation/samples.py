"""The quality of a pipeline's samples, with the floor that real images set."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import torch

from hfgen.compiled import compile_unet
from hfgen.data.images import ImagesInMemory
from hfgen.data.order import Stream, seeded
from hfgen.errors import HfgenError
from hfgen.evaluation.features import FeatureNetwork, Features
from hfgen.evaluation.images import load_evaluation_images
from hfgen.evaluation.quality import class_frequencies, frechet_distance, precision_recall
from hfgen.pipelines import VAEPipeline
from hfgen.pipelines.pipeline_hfgen_class_conditional import check_inputs, set_timesteps
from hfgen.resume import Resumable
from hfgen.sampling import generate, generate_vae
from hfgen.schedulers.samplers import default_sampler, default_steps, make_sampler

CHUNK = 512
SHOWN = 64


class Draws:
    """`count` images of a pipeline, drawn in parts that survive a break: image i depends on the seed and i alone.

    Raises `HfgenError` for steps or a scheduler that the pipeline cannot have, before anything is drawn.
    """

    def __init__(
        self,
        pipeline,
        count: int,
        steps: int | None = None,
        scheduler: str | None = None,
        seed: int = 0,
        batch_size: int = 64,
        sample_pixels: bool = False,
        guidance_scale: float | None = None,
        resumable: Resumable | None = None,
        compile: bool = False,
        eta: float | None = None,
    ):
        self.count, self.seed, self.batch_size = count, seed, batch_size
        self.compile, self.eta = compile, eta or 0.0
        self.resumable = resumable or Resumable(None)
        self.sample_pixels = sample_pixels
        self.vae = isinstance(pipeline, VAEPipeline)
        if self.vae and (compile or any(value is not None for value in (steps, scheduler, eta))):
            raise HfgenError(
                "--steps, --scheduler, --eta and --compile are for diffusion models, and this is a VAE: leave them out"
            )
        self.class_names = getattr(pipeline, "class_names", None)
        if guidance_scale is not None and self.class_names is None:
            raise HfgenError("--guidance_scale is for class-conditional models, and this is none: leave it out")
        self.guidance_scale = 1.0 if guidance_scale is None else guidance_scale
        if self.vae:
            self.how = "draws from p(x|z)" if sample_pixels else "means of p(x|z)"
        else:
            name = scheduler or default_sampler(pipeline.scheduler)
            pipeline = copy.copy(pipeline)
            pipeline.scheduler = make_sampler(name, pipeline.scheduler)
            self.steps = steps or default_steps(name, pipeline.scheduler.config.num_train_timesteps)
            self.how = f"{name}, {self.steps} steps{f', eta {eta:g}' if eta else ''}"
            try:
                check_inputs(pipeline, 1, None, self.steps, eta or 0.0, "pt")
                set_timesteps(pipeline, self.steps)
            except ValueError as error:
                raise HfgenError(str(error)) from error
        if self.class_names is not None:
            self.how = f"{self.how}, classes in turn, guidance {self.guidance_scale:g}"
        self.pipeline = pipeline

    def images(self) -> tuple[torch.Tensor, float]:
        """uint8 (count, C, H, W) and the seconds that they took."""
        if self.compile:
            compile_unet(self.pipeline.unet)
        parts, seconds = [], 0.0
        for first in range(0, self.count, CHUNK):
            name = f"samples-{first:07d}"
            part = self.resumable.load(name)
            if part is None:
                samples = self._draw(first, min(CHUNK, self.count - first))
                part = {"images": samples.images, "seconds": torch.tensor(samples.seconds)}
                self.resumable.save(name, part)
            parts.append(part["images"])
            seconds += part["seconds"].item()
        return torch.cat(parts), seconds

    def _draw(self, first, count):
        if self.vae:
            return generate_vae(self.pipeline, count, self.seed, self.batch_size, self.sample_pixels, first)
        return generate(
            self.pipeline,
            count,
            self.steps,
            self.seed,
            self.batch_size,
            self.eta,
            first=first,
            guidance_scale=self.guidance_scale,
        )

    def labels(self) -> torch.Tensor | None:
        """The class that each image was asked for, int64 (count,); None where there are no classes."""
        return None if self.class_names is None else torch.arange(self.count) % len(self.class_names)


@dataclass(frozen=True)
class RealImages:
    """Features of images of the split that samples are held against, and of the training split, which set the floor.

    `fingerprint` is that of the first ones.
    """

    reference: Features
    floor: Features
    fingerprint: str


def real_images(
    draws: Draws,
    network: FeatureNetwork,
    dataset_name: str,
    split: str = "test",
    train_split: str = "train",
    dataset_config_name: str | None = None,
) -> RealImages:
    """As many images of each split as there are samples, drawn without replacement; all, if it has fewer.

    Raises `HfgenError` for fewer samples or images than features, and as `load_evaluation_images`.
    """
    _check_enough(f"--samples {draws.count}", draws.count, network)
    (reference, fingerprint), (floor, _) = (
        real_features(draws, network, dataset_name, name, dataset_config_name, key)
        for key, name in enumerate((split, train_split))
    )
    for name, features in ((split, reference), (train_split, floor)):
        _check_enough(f"{len(features)} images of split {name!r}", len(features), network)
    return RealImages(reference, floor, fingerprint)


def evaluate_samples(draws: Draws, network: FeatureNetwork, real: RealImages) -> tuple[dict, torch.Tensor]:
    """Frechet distance, precision and recall, class balance and confidence of samples against real images.

    The same numbers for images of the training split in place of the samples are the floor: what a perfect model would reach.

    Returns JSON values and the first 64 images, uint8.
    """
    images, seconds = draws.images()
    start = time.perf_counter()
    generated = network(ImagesInMemory(images))
    results = {
        "count": draws.count,
        "reference": len(real.reference),
        "how": draws.how,
        "features": network.name,
        "seconds_sampling": seconds,
        "classes": {
            "names": network.class_names,
            "samples": class_frequencies(generated).tolist(),
            "reference": class_frequencies(real.reference).tolist(),
        },
        "metrics": quality_metrics(generated, real.reference, real.floor, network.name)
        | _accuracy(generated, draws, network),
        "seconds_measuring": time.perf_counter() - start,
    }
    return results, images[:SHOWN]


def _check_enough(what: str, count: int, network: FeatureNetwork):
    if count <= network.num_features:
        raise HfgenError(
            f"{what}: too few for {network.num_features} features, whose covariance would be singular; "
            f"use more than {network.num_features}, better ten times as many"
        )


def _accuracy(generated: Features, draws: Draws, network: FeatureNetwork) -> dict:
    """Of class-conditional samples: the share that the classifier takes for the class asked for, in all and by class.

    Empty where the model has no classes, or others than the classifier.
    """
    labels = draws.labels()
    if labels is None or len(draws.class_names) != len(network.class_names):
        return {}
    right = (generated.probabilities.argmax(1) == labels).double()
    shares = {"": right, **{name: right[labels == i] for i, name in enumerate(draws.class_names)}}
    return {
        f"class_accuracy{'_' * bool(name)}{name.replace(' ', '_')}": {
            "name": f"share that the classifier takes for the class asked for{f', class {name}' if name else ''}",
            "mean": values.mean().item(),
            "standard_error": None,
            "unit": "",
        }
        for name, values in shares.items()
        if len(values)
    }


def quality_metrics(generated: Features, reference: Features, floor: Features, name: str) -> dict:
    """Metrics by their keys, as JSON values; `floor` are features of real images that take the samples' place."""
    metrics = {}
    for kind, features, words in (("", generated, ""), ("_floor", floor, ", floor: training images")):
        precision, recall = precision_recall(features, reference)
        shift = (class_frequencies(features) - class_frequencies(reference)).abs().sum().item() / 2
        confidence = features.probabilities.max(1).values
        values = {
            "frechet": (f"Frechet distance of {name} features (not FID){words}", frechet_distance(features, reference)),
            "precision": (f"precision{words}", precision),
            "recall": (f"recall{words}", recall),
            "class_shift": (f"share of images in another class than the reference's{words}", shift),
            "confidence": (f"mean confidence of the classifier{words}", confidence.mean().item()),
        }
        metrics |= {
            f"{key}{kind}": {"name": label, "mean": value, "standard_error": None, "unit": ""}
            for key, (label, value) in values.items()
        }
    return metrics


def real_features(draws: Draws, network: FeatureNetwork, dataset_name, split, dataset_config_name, key):
    """Features of as many images of a split as there are samples, and the fingerprint of its data."""
    channels, resolution = _shape(draws.pipeline)

    def choose(count: int) -> torch.Tensor:
        order = torch.randperm(count, generator=seeded("cpu", draws.seed, Stream.ORDER, key))
        return order[: draws.count].sort().values

    data = load_evaluation_images(
        dataset_name, split, channels, resolution, network.device, None, dataset_config_name, choose=choose
    )
    return network(data.images), data.fingerprint


def _shape(pipeline) -> tuple[int, int]:
    config = (pipeline.vae if isinstance(pipeline, VAEPipeline) else pipeline.unet).config
    return config.in_channels, config.sample_size
