"""From the flags of a text-to-image training to its networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hfgen.configs.training import TrainingConfig
from hfgen.core.errors import HfgenError, one_line
from hfgen.data.training_set import TrainingSet
from hfgen.families.model import Model
from hfgen.families.text_to_image.flags import TextToImageFlags
from hfgen.families.text_to_image.module import TextConditioned
from hfgen.models.text_presets import build_text_encoder, build_text_unet
from hfgen.models.tokenizer import build_tokenizer

MULTIPLE = 8


def autoencoder_of(model: Any) -> Any:
    """The autoencoder that the flags name; `HfgenError` where they name none."""
    from hfgen.families.autoencoder.loading import load_autoencoder

    name = model.autoencoder or model.pretrained_model_name_or_path
    if name is None:
        raise HfgenError(
            "no autoencoder is named, whose latents are to be drawn: pass --autoencoder, such as training/train_autoencoder.py leaves"
        )
    return load_autoencoder(name)


def check_side(images: TrainingSet) -> None:
    """Raise `HfgenError` for images of a side that stock pipelines refuse to draw."""
    side = images.resolution
    if side % MULTIPLE:
        raise HfgenError(
            f"images of {side}x{side}: StableDiffusionPipeline draws sides that are multiples of {MULTIPLE} alone, pass --resolution "
            f"{-(-side // MULTIPLE) * MULTIPLE}"
        )


def build_module(
    config: TrainingConfig, model_config: Mapping[str, Any], images: TrainingSet, pretrained: Model | None
) -> TextConditioned:
    """The networks for these latents and captions; `HfgenError` where they do not fit each other."""
    if pretrained is not None:
        return _pretrained_module(config.model, images, pretrained.pipeline)
    named, shape = config.model.text_encoder, (images.channels, images.resolution)
    if named is not None:
        text_encoder, tokenizer = load_text_encoder(named)
        told = {"cross_attention_dim": text_encoder.config.hidden_size}
        return TextConditioned(
            build_text_unet({**model_config, **told}, *shape), text_encoder, tokenizer, trained=False
        )
    unet = build_text_unet(model_config, *shape)
    tokenizer = build_tokenizer(images.train_companions.captions or [])
    text_encoder = build_text_encoder(tokenizer, unet.config.cross_attention_dim)
    return TextConditioned(unet, text_encoder, tokenizer, trained=True)


def _pretrained_module(model: TextToImageFlags, images: TrainingSet, pipeline: Any) -> TextConditioned:
    unet = pipeline.unet
    if unet.config.in_channels != images.channels:
        raise HfgenError(
            f"the autoencoder has latents of {images.channels} channels, and {model.pretrained_model_name_or_path} draws such of "
            f"{unet.config.in_channels}: leave --autoencoder out, or name one that fits"
        )
    unet.register_to_config(sample_size=images.resolution)
    if model.text_encoder is None:
        return TextConditioned(unet, pipeline.text_encoder, pipeline.tokenizer, trained=True)
    text_encoder, tokenizer = load_text_encoder(model.text_encoder)
    _check_width(unet, text_encoder, model.text_encoder)
    return TextConditioned(unet, text_encoder, tokenizer, trained=False)


def load_text_encoder(name: str) -> tuple[Any, Any]:
    """A `CLIPTextModel` and its tokenizer from a folder or repository, or from the parts of a pipeline's; `HfgenError` for what is none."""
    from transformers import CLIPTextModel, CLIPTokenizer

    failed: Exception | None = None
    for model, tokenizer in (("text_encoder", "tokenizer"), ("", "")):
        try:
            found = CLIPTextModel.from_pretrained(name, subfolder=model, use_safetensors=True)
            return found.float(), CLIPTokenizer.from_pretrained(name, subfolder=tokenizer)
        except Exception as error:  # of what is not there, or damaged, the loaders raise anything
            failed = error
    raise HfgenError(
        f"text_encoder={name!r} cannot be loaded ({one_line(failed, 200)}): pass a folder or repository of a CLIPTextModel with its tokenizer"
    )


def _check_width(unet: Any, text_encoder: Any, name: str) -> None:
    width = text_encoder.config.hidden_size
    if width != unet.config.cross_attention_dim:
        raise HfgenError(
            f"text_encoder={name!r} tells {width} numbers a word, and the pretrained noise predictor takes "
            f"{unet.config.cross_attention_dim}: leave one of the two out"
        )
