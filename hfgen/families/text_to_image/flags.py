"""What can be chosen of a text-to-image model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from hfgen.configs.flags import BELOW_ONE, flag
from hfgen.families.ddpm.flags import GUIDANCE, DiffusionFlags, DiffusionSampling

OWN_GUIDANCE = 7.5


@dataclass(frozen=True, kw_only=True)
class TextToImageFlags(DiffusionFlags):
    """The flags of train_text_to_image.py that are the model's own."""

    _argument_group_name = "text-to-image model"

    model_config_name_or_path: str | None = flag(
        None,
        "noise predictor of latents: text-4, text-8, text-16, text-32, a UNet2DConditionModel config JSON, a folder or repository; none: the preset "
        "of the latents' size",
    )
    pretrained_model_name_or_path: str | None = flag(
        None,
        "folder or repository of a StableDiffusionPipeline to start from, instead of model_config_name_or_path; what is not given "
        "below is its own",
    )
    ddpm_variance_type: Literal["fixed_small", "fixed_large"] | None = flag(
        None,
        "variance of an ancestral step of --scheduler ddpm: beta_tilde (small) or beta (large); none: fixed_small",
        card="always",
    )
    prediction_type: Literal["epsilon", "sample", "v_prediction"] | None = flag(
        None, "what the network predicts: v, the noise, or x_0; none: v_prediction", card="always"
    )
    autoencoder: str | None = flag(
        None,
        "folder or repository of the AutoencoderKL whose latents are drawn, which stays as it is; none: that of the pretrained model",
    )
    text_encoder: str | None = flag(
        None,
        "folder or repository of a CLIPTextModel with its tokenizer, which stays as it is; none: a small one with a tokenizer of the "
        "captions' words, or the pretrained model's, and it is trained along",
    )
    caption_dropout: float = flag(
        0.1, "share of rows whose caption is withheld in training, for guidance", range=BELOW_ONE
    )
    variance_objective: ClassVar[str] = "hybrid"


@dataclass(frozen=True, kw_only=True)
class TextToImageSampling(DiffusionSampling):
    """How a text-to-image model is sampled.

    Attributes:
        labels, class_names: the classes whose captions the prompts are, and the names of all, where they are such captions.
    """

    prompt: tuple[str, ...] | None = flag(None, "of a model that draws from words: the words, several in turn")
    guidance_scale: float | None = flag(None, "guidance; none: the pipeline's own", range=GUIDANCE)
    labels: tuple[int, ...] | None = field(default=None, repr=False)
    class_names: tuple[str, ...] | None = field(default=None, repr=False)
