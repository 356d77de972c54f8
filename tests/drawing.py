"""Draw from a pipeline that was made in memory, as `hfgen sample` does from one in a folder."""

from pathlib import Path

from hfgen.drawing.draw import draw_samples
from hfgen.families.base import make_options
from hfgen.families.model import Model
from hfgen.families.registry import get_family

FAMILIES = {
    "UnconditionalDiffusionPipeline": "ddpm",
    "ClassConditionalDDPMPipeline": "class_conditional_ddpm",
    "VAEPipeline": "vae",
}


def model_of(pipeline, name="model", folder=None):
    """With its family."""
    family = get_family(FAMILIES[type(pipeline).__name__])
    return Model(family=family, pipeline=pipeline, name=name, folder=None if folder is None else Path(folder))


def sampler_of(pipeline, compile=False, **options):
    """As the family makes it."""
    family = model_of(pipeline).family
    return family.sampler(pipeline, make_options(family.sampling_options, options, whose="model"), compile)


def draw(pipeline, num_images, *, seed=0, batch_size=64, trajectory=False, compile=False, **options):
    """`Samples` of a pipeline."""
    return draw_samples(
        sampler_of(pipeline, compile, **options),
        device=pipeline.device,
        num_images=num_images,
        seed=seed,
        batch_size=batch_size,
        trajectory=trajectory,
    )
