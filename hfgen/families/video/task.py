"""How motion modules are trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import SchedulerMixin, UNetMotionModel

from hfgen.configs.training import TrainingConfig
from hfgen.data.batch import Batch, RandomSpec
from hfgen.data.training_set import TrainingSet
from hfgen.drawing.draw import draw_samples
from hfgen.families.ddpm.task import DDPMTask
from hfgen.families.text_to_image.task import preview_prompts
from hfgen.families.video.building import parts_of, still_of
from hfgen.families.video.flags import VideoSampling
from hfgen.families.video.motion import motion_adapter
from hfgen.families.video.pipeline import AnimateDiffPipeline
from hfgen.families.video.sampler import VideoSampler
from hfgen.families.video.stored import store
from hfgen.models.tokenizer import check_lengths, token_ids
from hfgen.objectives import WEIGHTS, DiffusionLoss, UniformTimes, shared_noise
from hfgen.schedulers import make_sampler, reverse_process

PREVIEWED_CLIPS = 10


class Prompts:
    """What the network is told of each row: embeddings of distinct captions, and which of them a row has.

    Args:
        parts: a pipeline with `tokenizer` and `text_encoder`.
        train, held_out: the captions of all rows.

    Raises `HfgenError` for a caption that is longer than the tokenizer takes.
    """

    def __init__(self, parts: Any, train: Sequence[str], held_out: Sequence[str]):
        self.captions = list(dict.fromkeys([*train, *held_out]))
        check_lengths(parts.tokenizer, self.captions)
        places = {caption: place for place, caption in enumerate(self.captions)}
        self.train, self.held_out = (torch.tensor([places[text] for text in texts]) for texts in (train, held_out))
        with torch.no_grad():
            ids = token_ids(parts.tokenizer, [*self.captions, ""]).to(parts.text_encoder.device)
            self.embeddings = torch.cat([parts.text_encoder(part)[0].float() for part in ids.split(64)])

    def to(self, device: torch.device) -> None:
        """Where the network is."""
        self.train, self.held_out, self.embeddings = (
            x.to(device) for x in (self.train, self.held_out, self.embeddings)
        )

    def of(self, choice: torch.Tensor, rows: torch.Tensor, withheld: torch.Tensor | None = None) -> torch.Tensor:
        """Embeddings (B, L, D) of rows of `train` or `held_out`, of those that are withheld that of no words."""
        places = choice[rows.to(choice.device)]
        if withheld is not None:
            places = torch.where(withheld, len(self.captions), places)
        return self.embeddings[places]


@dataclass(frozen=True, kw_only=True)
class VideoTask(DDPMTask):
    """The squared error of a prediction of clips, (B, F, c, h, w), whose frames share a part of their noise.

    Attributes:
        parts: the pipeline of the text-to-image model, of which all but the UNet is the result's too.
        share: lambda.
    """

    parts: Any
    prompts: Prompts
    share: float
    caption_dropout: float
    class_names: tuple[str, ...]

    @property
    def random(self) -> RandomSpec:
        """The noise of a frame's own and that of a clip, numbers for t and for whether the caption is withheld."""
        return RandomSpec(
            normal={"noise": self.shape, "shared_noise": self.shape[1:]}, uniform={"time": (), "caption_dropout": ()}
        )

    def to(self, device: torch.device) -> None:
        """The tables, what the network is told, and the parts of the previews' pipeline lie on the device."""
        super().to(device)
        self.prompts.to(device)
        for part in (self.parts.vae, self.parts.text_encoder):
            part.to(device)

    def condition(self, batch: Batch) -> Mapping[str, torch.Tensor]:
        """The captions' embeddings, some of them withheld."""
        withheld = batch.random["caption_dropout"] < self.caption_dropout
        return {"encoder_hidden_states": self.prompts.of(self.prompts.train, batch.rows, withheld)}

    def held_out_condition(self, batch: Batch) -> Mapping[str, torch.Tensor]:
        """The captions' embeddings."""
        return {"encoder_hidden_states": self.prompts.of(self.prompts.held_out, batch.rows)}

    def noise(self, batch: Batch) -> torch.Tensor:
        """What is added to a clip: shared between its frames in part."""
        return shared_noise(batch.random["shared_noise"], batch.random["noise"], self.share)

    def predict(
        self, model: Callable, x_t: torch.Tensor, timesteps: torch.Tensor, cond: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        """The network has the channels before the frames, and is told the words for each frame."""
        words = cond["encoder_hidden_states"].repeat_interleave(x_t.shape[1], 0)
        output = model(x_t.transpose(1, 2), timesteps, encoder_hidden_states=words, return_dict=False)[0]
        return output.transpose(1, 2).float()

    def pipeline(self, module: UNetMotionModel) -> AnimateDiffPipeline:
        """The text-to-image model with motion, and with a scheduler whose steps draw no noise of their own."""
        return video_pipeline(self.parts, module, self.scheduler, share=self.share, frames=self.shape[0])

    def preview(self, module: UNetMotionModel) -> torch.Tensor:
        """A clip of each caption, uint8 (N, F, C, H, W), of ten at most; those that `hfgen sample` draws of the same seed."""
        options = VideoSampling(prompt=self.class_names, steps=self.num_inference_steps)
        samples = draw_samples(
            VideoSampler(self.pipeline(module), options),
            device=module.device,
            num_images=len(self.class_names),
            seed=self.seed,
            batch_size=self.batch_size,
            show_progress=False,
        )
        return samples.images


def video_pipeline(
    parts: Any, unet: UNetMotionModel, scheduler: SchedulerMixin, *, share: float, frames: int
) -> AnimateDiffPipeline:
    """A stock pipeline; lambda and the frames of a clip stand in its scheduler's config, under keys of hfgen's."""
    ddim = make_sampler("ddim", scheduler)
    store(ddim, share=share, frames=frames)
    pipeline = AnimateDiffPipeline(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        unet=unet,
        motion_adapter=motion_adapter(unet),
        scheduler=ddim,
    )
    pipeline.still = still_of(parts)
    return pipeline


def make_task(config: TrainingConfig, unet: UNetMotionModel, images: TrainingSet) -> VideoTask:
    """The task of the flags; `HfgenError` for a text-to-image model whose process is none of a DDPM."""
    model, optimization, parts = config.model, config.optimization, parts_of(unet)
    scheduler, process = parts.scheduler, reverse_process(parts.scheduler, "fixed_small")
    captions, held_out = images.train_companions.captions, images.companions.captions
    assert captions is not None
    assert held_out is not None
    prompts = Prompts(parts, captions, held_out)
    return VideoTask(
        scheduler=scheduler,
        objective=DiffusionLoss(process, WEIGHTS["simple"](process)),
        times=UniformTimes(scheduler.config.num_train_timesteps),
        shape=images.shape,
        num_inference_steps=model.num_inference_steps,
        batch_size=optimization.eval_batch_size,
        seed=optimization.seed,
        ylabel=f"squared error of {scheduler.config.prediction_type.removesuffix('_prediction')} per value of the latents",
        parts=parts,
        prompts=prompts,
        share=model.shared_noise,
        caption_dropout=model.caption_dropout,
        class_names=preview_prompts(images.train_companions)[:PREVIEWED_CLIPS],
    )
