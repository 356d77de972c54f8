"""What the card of a flow tells."""

from __future__ import annotations

from typing import Any

from hfgen.families.base import Card
from hfgen.families.words import OWN_CODE, image_words, parameter_words
from hfgen.results import EvaluationResult

KINDS = {
    "spline": "monotone splines of pixels scaled to [0, 1] (Müller et al. 2019)",
    "affine": "affine couplings of the logits of pixels (Dinh et al. 2017)",
}
USAGE = """
```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("{name}", trust_remote_code=True)
images = pipeline(batch_size=16, temperature=0.9).images
images[0].save("sample.png")
noise = pipeline.encode(images)  # the map itself: N(0, 1) if the images are like those that it was trained on
again = pipeline(latents=noise).images
```

With hfgen installed no code of the repository is run: `hfgen.load("{name}")`, or on the command line:
"""


def flow_card(flow: Any, name: str, results: EvaluationResult | None) -> Card:
    """The card of a `FlowModel`."""
    config = flow.config
    unmeasured = "Its likelihood and the quality of its samples have not been measured."
    return Card(
        summary=(
            f"A coupling flow in {config.scales + 1} scales of {image_words(config.in_channels, config.sample_size)}: "
            f"{parameter_words(flow)}, {KINDS[config.coupling]}, {config.dequantization} dequantisation."
        ),
        usage=OWN_CODE + USAGE.format(name=name),
        samples="Samples of temperature 1, not selected.",
        results=""
        if results is None or results.likelihood is None
        else "The density of a flow is exact. Of 8-bit images it gives a bound, as it is the density of images with noise added.",
        limits=[
            "Pixels that are drawn at once do not know of each other: edges can be ragged.",
            *([] if results is not None else [unmeasured]),
        ],
        tags=["normalizing-flow"],
        pictures={"temperatures": "Samples of temperature 0.5, 0.7, 0.9 and 1, each column from the same noise."},
    )
