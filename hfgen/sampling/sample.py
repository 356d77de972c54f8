"""Sample a model as a configuration says."""

from __future__ import annotations

from hfgen.configs.sampling import SamplingConfig
from hfgen.families.base import make_options
from hfgen.families.model import Model
from hfgen.sampling.draw import Samples, draw_samples


def sample_model(model: Model, config: SamplingConfig) -> Samples:
    """Draw `config.num_images` images.

    Raises `HfgenError` for options that the model's family has not, that the model cannot have, and as `draw_samples`.
    """
    options = make_options(model.family.sampling_options, config.options, whose=f"{model.name} ({model.family.title})")
    sampler = model.family.sampler(model.pipeline, options, config.compile)
    return draw_samples(
        sampler,
        device=model.pipeline.device,
        num_images=config.num_images,
        seed=config.seed,
        batch_size=config.batch_size,
        trajectory=config.trajectory,
    )
