"""Feature networks by name, from a folder, or from the Hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from hfgen.core.errors import HfgenError, one_line
from hfgen.core.shipped import DIGITS_CLASSIFIER
from hfgen.evaluation.features import EmbeddingNetwork, Extractor, FeatureNetwork
from hfgen.evaluation.inception import load_inception

DIGITS, INCEPTION = "digits", "inception"
ON_THE_HUB = {"dinov2": "facebook/dinov2-small", "clip": "openai/clip-vit-large-patch14"}
PREPROCESSOR_FILE = "preprocessor_config.json"
DINO, CLIP = ("dinov2", "dinov2_with_registers"), ("clip", "clip_vision_model")
WAYS_OUT = (
    f"pass a folder or repository of an image classifier, a DINOv2 or a CLIP with safetensors and {PREPROCESSOR_FILE}; without "
    "a network: digits, or a folder that `hfgen train-features` makes"
)


def load_feature_network(name_or_path: str | Path | None = None, device: torch.device | str = "cpu") -> Extractor:
    """A network by name, or one of `transformers`: a folder or a repository.

    Args:
        name_or_path: "digits" (None too), the shipped classifier of MNIST's digits; "inception", the FID's own; "dinov2" or
            "clip", from the Hub; else an image classifier, a DINOv2 or a CLIP.
        device: where it is to compute.

    Weights are read from safetensors alone and no code of a repository is run. Raises `HfgenError` for what cannot be loaded,
    and for weights without the last layer of a classifier.
    """
    given = str(name_or_path or DIGITS)
    if given == INCEPTION:
        return load_inception(device)
    path = str(DIGITS_CLASSIFIER) if given == DIGITS else ON_THE_HUB.get(given, given)
    try:
        model, kind = _load(path)
        preprocessor = _preprocessor(path)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise HfgenError(f"--features {given} cannot be loaded ({one_line(error, 200)}): {WAYS_OUT}") from error
    return kind(model.to(device), preprocessor, _shown(given, path))


def _load(path: str) -> tuple[Any, type]:
    import transformers

    config = transformers.AutoConfig.from_pretrained(path, trust_remote_code=False)
    classifies = any(name.endswith("ForImageClassification") for name in config.architectures or ())
    loader, kind = transformers.AutoModelForImageClassification, FeatureNetwork
    options: dict[str, Any] = {"trust_remote_code": False}
    if not classifies and config.model_type in DINO:
        loader, kind = transformers.AutoModel, EmbeddingNetwork
    elif not classifies and config.model_type in CLIP:
        loader, kind = transformers.CLIPVisionModelWithProjection, EmbeddingNetwork
        options = {"config": _of_vision(config)}
    with _silent():
        model, found = loader.from_pretrained(path, use_safetensors=True, output_loading_info=True, **options)
    wrong = [*found["missing_keys"], *(str(key[0]) for key in found.get("mismatched_keys", ()))]
    if wrong:
        raise ValueError(f"no weights of {', '.join(sorted(wrong))}")
    return model, kind


def _of_vision(config: Any) -> Any:
    """The part of a CLIP's config that its images need; the length of its embeddings stands beside it."""
    if config.model_type != CLIP[0]:
        return config
    config.vision_config.projection_dim = config.projection_dim
    return config.vision_config


@contextmanager
def _silent() -> Iterator[None]:
    """Without the report of what is not loaded, such as a CLIP's network of texts."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _preprocessor(path: str) -> dict[str, Any]:
    from transformers.utils import cached_file

    return json.loads(Path(cached_file(path, PREPROCESSOR_FILE)).read_text(encoding="utf-8"))


def _shown(given: str, path: str) -> str:
    """What reports call it; of a folder the last part of its name."""
    if given == DIGITS:
        return "digit classifier"
    return Path(path).resolve().name if Path(path).exists() else path
