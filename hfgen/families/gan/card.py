"""What the card of a GAN tells."""

from __future__ import annotations

from typing import Any

from hfgen.core.markdown import escape_markdown
from hfgen.families.base import Card
from hfgen.families.words import image_words, parameter_words
from hfgen.results import EvaluationResult

USAGE = """The pipeline's and the model's code lie in the repository; `trust_remote_code=True` runs it. Read it first: it is two files. A
`revision="..."` (a commit) beside it pins what you have read.

```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("{name}", trust_remote_code=True)
images = pipeline({first}).images
images[0].save("sample.png")
```

With hfgen installed no code of the repository is run: `hfgen.load("{name}")`, or on the command line:
"""


def gan_card(pipeline: Any, name: str, results: EvaluationResult | None) -> Card:
    """The card of a pipeline with a `generator`."""
    generator, names = pipeline.generator, pipeline.class_names
    config = generator.config
    classes = f", told the class: {', '.join(map(escape_markdown, names))}" if names else ""
    unmeasured = "The quality of its samples has not been measured; the losses of the training do not tell it."
    return Card(
        summary=(
            f"The generator of a GAN (Goodfellow et al. 2014) of {image_words(config.in_channels, config.sample_size)}: "
            f"{parameter_words(generator)}, {config.latent_size} numbers of noise{classes}."
        ),
        usage=USAGE.format(name=name, first="class_labels=[0, 1] * 8" if names else "batch_size=16"),
        samples="Samples, not selected.",
        limits=[
            "It has no likelihood, and cannot say of an image how probable it is.",
            "A GAN may leave out what is rare among the training images: the recall of its samples tells how much.",
            "The discriminator is not in the repository: the training cannot be taken up from here.",
            *([] if results is not None else [unmeasured]),
        ],
        tags=["gan"],
        pictures={"walks": "Walks between two draws of z, a row each."},
    )
