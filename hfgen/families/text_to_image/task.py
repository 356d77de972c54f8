"""How a text-to-image model is trained."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler, SchedulerMixin, StableDiffusionPipeline
from tqdm.auto import tqdm

from hfgen.data.batch import Batch, RandomSpec
from hfgen.data.companions import Companions
from hfgen.data.training_set import TrainingSet
from hfgen.families.base import PREVIEWS
from hfgen.families.ddpm.task import DDPMTask
from hfgen.families.text_to_image.flags import TextToImageSampling
from hfgen.families.text_to_image.module import TextConditioned
from hfgen.families.text_to_image.sampler import TextSampler
from hfgen.models.tokenizer import lengths, token_ids


@dataclass(frozen=True, kw_only=True)
class TextToImageTask(DDPMTask):
    """A `DDPMTask` on latents whose network is told the caption, which is withheld from a share `caption_dropout` of the rows.

    Attributes:
        autoencoder: of the latents.
        tokens, held_out_tokens: the captions of the training and of the held-out rows, int64 (N, L).
        null_tokens: what stands for no caption, the empty one, int64 (L,).
        prompts: of the previews, in turn.
        class_names: the prompts, where each is a class's.
    """

    autoencoder: Any
    tokens: torch.Tensor
    held_out_tokens: torch.Tensor
    null_tokens: torch.Tensor
    caption_dropout: float
    prompts: tuple[str, ...]
    class_names: tuple[str, ...]
    module: TextConditioned

    @property
    def random(self) -> RandomSpec:
        """Those of a `DDPMTask`, and a number that decides whether the caption is withheld."""
        return super().random | RandomSpec(uniform={"caption_dropout": ()})

    def to(self, device: torch.device) -> None:
        """As `DDPMTask.to`, with the parts that are not trained."""
        super().to(device)
        self.autoencoder.to(device)
        self.module.move_frozen(device)

    def condition(self, batch: Batch) -> Mapping[str, torch.Tensor]:
        """The captions, or the empty one."""
        withheld = batch.random["caption_dropout"] < self.caption_dropout
        ids = self.tokens[batch.rows].to(withheld.device)
        return {"input_ids": torch.where(withheld[:, None], self.null_tokens.to(withheld.device), ids)}

    def held_out_condition(self, batch: Batch) -> Mapping[str, torch.Tensor]:
        """The captions of the images."""
        return {"input_ids": self.held_out_tokens[batch.rows].to(batch.data.device)}

    def pipeline(self, module: Any) -> Any:
        """As stock diffusers loads it."""
        return StableDiffusionPipeline(
            vae=self.autoencoder,
            text_encoder=module.text_encoder,
            tokenizer=module.tokenizer,
            unet=module.unet,
            scheduler=sampling_scheduler(self.scheduler),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )

    def preview_sampler(self, module: Any) -> Any:
        """Of the prompts in turn."""
        return TextSampler(self.pipeline(module), TextToImageSampling(prompt=self.prompts, **self.preview_options))


def sampling_scheduler(scheduler: SchedulerMixin) -> DDIMScheduler:
    """What a stock pipeline of latents draws by: DDIM from x_T on, with the betas of a training's scheduler.

    It clips nothing: latents, unlike pixels, have no bounds.
    """
    config = {k: v for k, v in scheduler.config.items() if not k.startswith("_")}
    known = DDIMScheduler._get_init_keys(DDIMScheduler)
    values = {k: v for k, v in config.items() if k in known}
    # steps_offset, which "trailing" does not heed, is what StableDiffusionPipeline does not warn of
    own = {"clip_sample": False, "timestep_spacing": "trailing", "set_alpha_to_one": True, "steps_offset": 1}
    return DDIMScheduler(**{**values, **own})


def text_settings(module: TextConditioned, images: TrainingSet) -> dict[str, Any]:
    """The attributes of a `TextToImageTask` that a `DDPMTask` has not."""
    tokenizer, held_out, captions = module.tokenizer, images.companions, images.train_companions.captions or []
    told = cut_captions(tokenizer, captions)
    if told is not None:
        tqdm.write(f"hfgen: {told}", file=sys.stderr)
    return {
        "autoencoder": images.representation.autoencoder,
        "tokens": token_ids(tokenizer, captions),
        "held_out_tokens": token_ids(tokenizer, held_out.captions or []),
        "null_tokens": token_ids(tokenizer, [""])[0],
        "prompts": preview_prompts(held_out),
        "class_names": tuple(held_out.class_captions or ()),
        "module": module,
    }


def preview_prompts(held_out: Companions) -> tuple[str, ...]:
    """The captions of the classes, or as many of the held-out images' as there are previews, each once."""
    return tuple(held_out.class_captions or list(dict.fromkeys(held_out.captions or []))[:PREVIEWS])


def cut_captions(tokenizer: Any, captions: Sequence[str]) -> str | None:
    """In a line, how many captions have more tokens than the tokenizer takes; None where all fit."""
    distinct = list(dict.fromkeys(captions))
    most = tokenizer.model_max_length
    long = {text for text, length in zip(distinct, lengths(tokenizer, distinct), strict=True) if length > most}
    rows = [row for row, text in enumerate(captions) if text in long]
    if not rows:
        return None
    return f"{len(rows):,} of {len(captions):,} captions have more than the {most} tokens that the text encoder takes, and are cut, the first of them row {rows[0]}"
