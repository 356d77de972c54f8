"""What the card of a model that follows pictures tells."""

from __future__ import annotations

import shlex
from typing import Any

from hfgen.core.markdown import python_text
from hfgen.families.base import Card
from hfgen.families.text_to_image.card import OTHER_WORDS, UNMEASURED, example_prompt, text_summary
from hfgen.families.words import parameter_words
from hfgen.results import EvaluationResult, TrainingRecord

MADE = {
    "canny": "the Canny edges of an image, white on black",
    "skeleton": "the skeleton of what is lighter than half, white on black",
    "low_resolution": "an image of which each 4x4 pixels are their mean",
}
CODE = """```python
from diffusers import StableDiffusionControlNetPipeline
from PIL import Image

pipeline = StableDiffusionControlNetPipeline.from_pretrained("{name}")
picture = Image.open("picture.png").convert("RGB")  # of the images' size
image = pipeline("{prompt}", image=picture).images[0]
image.save("sample.png")
```

With hfgen on the command line:
"""


def control_card(pipeline: Any, name: str, training: TrainingRecord | None, results: EvaluationResult | None) -> Card:
    """The card of a stock pipeline with a ControlNet."""
    prompt = example_prompt(training)
    return Card(
        summary=f"A ControlNetModel ({parameter_words(pipeline.controlnet)}) that has a text-to-image model follow {_followed(training)}; "
        f"the model that it tells lies beside it as it was. {text_summary(pipeline)}",
        usage=CODE.format(name=name, prompt=python_text(prompt)),
        samples="Samples after pictures of held-out images, not selected.",
        results="Without control the same model draws from the same noise and words, with the ControlNet's outputs times 0.",
        limits=[OTHER_WORDS, *([] if results is not None else [UNMEASURED])],
        tags=["text-to-image", "stable-diffusion", "controlnet"],
        pictures={
            "control_samples": "Above the picture to follow, below it a sample, and below that the image it was made of."
        },
        task="image-to-image",
        sample_flags=f"--prompt {shlex.quote(prompt)} --control picture.png",
    )


def _followed(training: TrainingRecord | None) -> str:
    data = (training.data if training is not None else None) or {}
    return MADE.get(str(data.get("condition")), "pictures")
