"""What the card of a text-to-image model tells."""

from __future__ import annotations

import shlex
from typing import Any

from hfgen.core.markdown import escape_markdown, python_text
from hfgen.data.captions import CaptionRule
from hfgen.families.base import Card
from hfgen.families.text_to_image.loading import image_shape
from hfgen.families.words import image_words, parameter_words
from hfgen.results import EvaluationResult, TrainingRecord

TASK = "text-to-image"
NO_WORDS = "a picture"
CODE = """```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("{name}")
image = pipeline("{prompt}").images[0]
image.save("sample.png")
```

`guidance_scale`, 7.5 where it is not given, draws what is more typical of the words the larger it is; 1 is no guidance.

With hfgen on the command line:
"""
UNMEASURED = "The quality of its samples has not been measured; the training loss does not tell it."
OTHER_WORDS = "It knows the words of its captions and no others."


def text_card(pipeline: Any, name: str, training: TrainingRecord | None, results: EvaluationResult | None) -> Card:
    """The card of a stock pipeline that draws from words."""
    prompt = example_prompt(training)
    return Card(
        summary=text_summary(pipeline),
        usage=CODE.format(name=name, prompt=python_text(prompt)),
        samples="Samples of captions in turn, not selected.",
        limits=[OTHER_WORDS, *([] if results is not None else [UNMEASURED])],
        tags=["text-to-image", "stable-diffusion", "latent-diffusion"],
        pictures={"words": "What the pipeline draws of prompts in turn by its own steps and guidance, not selected."},
        task=TASK,
        sample_flags=f"--prompt {shlex.quote(prompt)}",
    )


def example_prompt(training: TrainingRecord | None) -> str:
    """The caption of a class that it was trained on, where captions were made of classes."""
    data = None if training is None else training.data
    if not data or not data.get("caption_template") or not data.get("class_names"):
        return NO_WORDS
    names = data["class_names"]
    rule = CaptionRule(column=None, template=data["caption_template"])
    return (rule.of_classes([names[min(7, len(names) - 1)]]) or [NO_WORDS])[0]


def text_summary(pipeline: Any) -> str:
    """The sentence of a card."""
    channels, height, width = image_shape(pipeline)
    latents = (
        f"{pipeline.unet.config.in_channels}x{height // pipeline.vae_scale_factor}x{width // pipeline.vae_scale_factor}"
    )
    words = pipeline.tokenizer.model_max_length
    return (
        f"A text-to-image model of {image_words(channels, [height, width])}: a UNet2DConditionModel on latents of {latents} "
        f"({parameter_words(pipeline.unet)}), a CLIPTextModel of at most {words} tokens ({parameter_words(pipeline.text_encoder)}) and an "
        f"AutoencoderKL ({parameter_words(pipeline.vae)}), predicting {_predicted(pipeline)}. Stock diffusers loads it."
    )


def _predicted(pipeline: Any) -> str:
    kind = pipeline.scheduler.config.get("prediction_type", "epsilon")
    return {"v_prediction": "v", "sample": "x_0"}.get(kind, escape_markdown(kind))
