"""Sample a model as a configuration says."""

from __future__ import annotations

import math
from typing import Any

from hfgen.configs.sampling import SamplingConfig
from hfgen.core.memory import check_fits, local_processes
from hfgen.drawing.draw import Samples, draw_samples
from hfgen.drawing.sampler import Sampler
from hfgen.families.base import make_options
from hfgen.families.model import Model

# bytes of a generator of torch, and of a number
GENERATOR, FLOAT32 = 5056, 4


def sample_model(model: Model, config: SamplingConfig) -> Samples:
    """Draw `config.num_images` images.

    Raises `HfgenError` for options that the model's family has not, that the model cannot have, and as `draw_samples`.
    """
    check_images_fit(model, config, at_once=config.num_images)
    return draw_samples(
        sampler_of(model, config),
        device=model.pipeline.device,
        num_images=config.num_images,
        seed=config.seed,
        batch_size=config.batch_size,
        trajectory=config.trajectory,
    )


def check_images_fit(model: Model, config: SamplingConfig, at_once: int) -> None:
    """Raise `HfgenError` before anything is drawn for more images at once than there is memory for.

    `at_once` images of 8 bits are kept, and a batch has a generator for each image and the noise of its first step, in each process of
    this machine.
    """
    batch, values = min(config.batch_size, config.num_images), math.prod(model.image_shape)
    size = local_processes() * (at_once * values + batch * (GENERATOR + FLOAT32 * values))
    check_fits(size, f"num_images={config.num_images}, batch_size={batch}", "ask for fewer images, or fewer at once")


def sampler_of(model: Model, config: SamplingConfig) -> Sampler:
    """What draws as the configuration says; `HfgenError` for what the model cannot have."""
    return model.family.sampler(model.pipeline, sampling_options(model, config), config.compile)


def sampling_options(model: Model, config: SamplingConfig) -> Any:
    """The family's options with the configuration's values; `HfgenError` for one that it has not."""
    return make_options(model.family.sampling_options, config.options, whose=f"{model.name} ({model.family.title})")
