"""What the card of a diffusion model of latents tells."""

from __future__ import annotations

from typing import Any

from hfgen.core.markdown import escape_markdown
from hfgen.data.latents import factor
from hfgen.families.base import Card, Family
from hfgen.families.bound_metrics import WITHHELD_NOTE
from hfgen.families.ddpm.card import PREDICTED
from hfgen.families.words import image_words, parameter_words
from hfgen.results import EvaluationResult

USAGE = """```python
from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler

pipeline = DiffusionPipeline.from_pretrained("{name}")
pipeline.scheduler = DPMSolverMultistepScheduler.from_config(
    pipeline.scheduler.config,
    timestep_spacing="linspace",
    algorithm_type="sde-dpmsolver++",
    solver_type="heun",{cosine}
)
images = pipeline({arguments}num_inference_steps=20).images
images[0].save("sample.png")
```

It is a stock {kind}: no code of the repository is run. The autoencoder lies in it, in the folder {slot}.{labels}

With hfgen on the command line:
"""
LABELS = """ `pipeline.get_label_ids` turns names into
numbers ({names}); `guidance_scale` above 1 draws what is more typical of the class, and below it the stock pipeline draws without
guidance. Labels that are no classes, up to 999, were never trained."""


def latent_card(family: Family, pipeline: Any, name: str, results: EvaluationResult | None) -> Card:
    """The card of a pipeline with an `autoencoder`, a `scheduler` and a network, perhaps with `class_names`."""
    config, names = pipeline.scheduler.config, getattr(pipeline, "class_names", None)
    autoencoder, network = pipeline.autoencoder, family.module(pipeline)
    channels, height, width = family.image_shape(pipeline)
    shown = ", ".join(map(escape_markdown, names or ()))
    predicted = PREDICTED.get(config.prediction_type) or escape_markdown(config.prediction_type)
    cosine = config.beta_schedule == "squaredcos_cap_v2"
    latents = f"{autoencoder.config.latent_channels}x{height // factor(autoencoder)}x{width // factor(autoencoder)}"
    unmeasured = "Its likelihood and the quality of its samples have not been measured; the training loss is neither."
    return Card(
        summary=(
            f"A {family.title} model (Rombach et al. 2022) of {image_words(channels, (height, width))} as {latents} latents: "
            f"{parameter_words(network)} in its {type(network).__name__}, {parameter_words(autoencoder)} in its autoencoder, "
            f"T = {config.num_train_timesteps}, {predicted} prediction{f', told the class: {shown}' if names else ''}."
        ),
        usage=USAGE.format(
            name=name,
            cosine="\n    lambda_min_clipped=-5.1," if cosine else "",
            arguments="class_labels=[0, 1] * 8, guidance_scale=1.5, " if names else "batch_size=16, ",
            kind="DiTPipeline" if names else "LDMPipeline",
            slot=family.autoencoder_slot,
            labels=LABELS.format(names=shown) if names else "",
        ),
        samples="Samples, not selected.",
        results=WITHHELD_NOTE if names and results is not None and results.likelihood is not None else "",
        limits=[] if results is not None else [unmeasured],
        tags=["latent-diffusion"],
    )
