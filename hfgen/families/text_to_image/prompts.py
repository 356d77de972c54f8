"""Which words samples are drawn from that are held against images."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from hfgen.data.evaluation_images import EvaluationImages
from hfgen.families.text_to_image.flags import TextToImageSampling

Options = TypeVar("Options", bound=TextToImageSampling)


def prompts_on(options: Options, data: EvaluationImages) -> Options:
    """The options with the captions of the images as prompts, where none are given; and the classes whose captions the prompts are."""
    found, of_classes = data.companions.captions, data.companions.class_captions
    prompts = options.prompt or (None if found is None else tuple(found))
    if prompts is None:
        return options
    labels = None
    if of_classes is not None and set(prompts) <= set(of_classes):
        number = {caption: label for label, caption in enumerate(of_classes)}
        labels = tuple(number[prompt] for prompt in prompts)
    return replace(
        options, prompt=prompts, labels=labels, class_names=None if labels is None else tuple(data.class_names)
    )
