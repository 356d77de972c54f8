"""How clips are drawn."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from hfgen.core.errors import NO_MEMORY, HfgenError, one_line
from hfgen.drawing.in_turn import in_turn
from hfgen.drawing.sampler import fitting
from hfgen.families.ddpm.sampler import check_call
from hfgen.families.text_to_image.flags import OWN_GUIDANCE
from hfgen.families.text_to_image.sampler import check_timesteps
from hfgen.families.video.flags import VideoSampling
from hfgen.families.video.motion import without_motion
from hfgen.families.video.stored import clip_frames, noise_share
from hfgen.models.tokenizer import check_lengths
from hfgen.objectives import shared_noise
from hfgen.schedulers.samplers import default_steps, make_sampler

# those whose steps draw no noise, which would have to be shared between the frames as that of x_T is
DETERMINISTIC = ("ddim", "dpmsolver++", "unipc", "euler", "heun")
DEFAULT = "dpmsolver++"


class VideoSampler:
    """Draws clips by the pipeline's own call, from noise whose frames share what they shared in training.

    Raises `HfgenError` for no prompt and one that is too long, for a solver whose steps draw noise, for steps that it cannot take,
    and for more frames than the motion modules have embeddings for.
    """

    calls = 0
    fixed_batch = False

    def __init__(self, pipeline: Any, options: VideoSampling):
        self.original, self.options, self.prompts = pipeline, options, options.prompt or ()
        if self.prompts:
            check_lengths(pipeline.tokenizer, dict.fromkeys(self.prompts))
        self.frames = options.num_frames or clip_frames(pipeline)
        self.pipeline = _alone(pipeline) if options.independent_frames else copy.copy(pipeline)
        self.share = 0.0 if options.independent_frames else noise_share(pipeline)
        self._check_frames(pipeline.unet.config.motion_max_seq_length)
        name = options.scheduler or DEFAULT
        self._check_deterministic(name)
        self.pipeline.scheduler = make_sampler(name, pipeline.scheduler)
        self.pipeline.set_progress_bar_config(disable=True)
        self.steps = options.steps or default_steps(name, pipeline.scheduler.config.num_train_timesteps)
        check_call(self.pipeline, self.steps, options.eta or 0.0)
        check_timesteps(self.pipeline.scheduler, self.steps)
        self.guidance = OWN_GUIDANCE if options.guidance_scale is None else options.guidance_scale
        if self.guidance < 1:
            raise HfgenError(
                f"guidance_scale={self.guidance:g}: of a model that draws from words it is 1, none, or more"
            )
        alone = ", each frame alone" if options.independent_frames else f", lambda {self.share:g}"
        self.how = f"{name}, {self.steps} steps, guidance {self.guidance:g}, {self.frames} frames{alone}"
        self.class_names = None if options.class_names is None else list(options.class_names)

    def _check_frames(self, positions: int) -> None:
        if self.frames > positions:
            raise HfgenError(
                f"num_frames={self.frames}: the motion modules of this model have embeddings for {positions}: use {positions} or fewer"
            )

    def _check_deterministic(self, name: str) -> None:
        stochastic = name not in DETERMINISTIC or bool(self.options.eta)
        if stochastic and self.share > 0:
            what = f"eta={self.options.eta:g}" if name in DETERMINISTIC else f"scheduler={name!r}"
            raise HfgenError(
                f"{what} draws noise at each step, each frame its own, and this model was trained on noise that frames share: use "
                f"one of {', '.join(DETERMINISTIC)} without --eta"
            )

    def alone(self) -> VideoSampler:
        """The sampler of the same prompts that draws each frame by itself."""
        return VideoSampler(self.original, replace(self.options, independent_frames=True))

    def labels(self, count: int) -> torch.Tensor | None:
        """The classes whose captions the prompts are."""
        labels = self.options.labels
        return None if labels is None else torch.tensor(in_turn(labels, 0, count))

    def warm_up(self, generators, first) -> None:
        """Nothing to compile."""

    def draw(self, generators, first, on_step=None) -> torch.Tensor:
        """As `Sampler.draw`: clips (B, F, C, H, W); there are no steps to tell of."""
        if not self.prompts:
            raise HfgenError("this model draws from words: pass --prompt TEXT, several in turn")
        prompts = in_turn(self.prompts, first, len(generators))
        try:
            with fitting(len(generators), self.pipeline.device, "clips"):
                return self._draw(generators, prompts)
        except HfgenError:
            raise
        except Exception as error:  # the calls of diffusers raise anything
            if NO_MEMORY.search(str(error)):
                raise
            raise HfgenError(
                f"{self.how}: the parts of the model do not go together ({type(error).__name__}: {one_line(error, 200)}): mend their "
                "configs"
            ) from error

    def _draw(self, generators: list[torch.Generator], prompts: Sequence[str]) -> torch.Tensor:
        pipeline = self.pipeline
        size = pipeline.unet.config.sample_size
        shape = pipeline.unet.config.in_channels, *((size, size) if isinstance(size, int) else size)
        noise = torch.cat([clip_noise(generator, shape, self.frames, self.share) for generator in generators])
        height, width = (side * pipeline.vae_scale_factor for side in shape[1:])
        return pipeline(
            prompt=list(prompts),
            num_frames=self.frames,
            height=height,
            width=width,
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            eta=self.options.eta or 0.0,
            generator=generators,
            latents=noise.transpose(1, 2).to(pipeline.device, pipeline.unet.dtype),
            output_type="pt",
        ).frames


def clip_noise(generator: torch.Generator, shape: tuple[int, ...], frames: int, share: float) -> torch.Tensor:
    """x_T of a clip, (1, F, c, h, w); that of fewer frames is the beginning of that of more."""
    device = generator.device
    shared = torch.randn(1, *shape, generator=generator, device=device)
    own = torch.stack([torch.randn(1, *shape, generator=generator, device=device) for _ in range(frames)], dim=1)
    return shared_noise(shared, own, share)


def _alone(pipeline: Any) -> Any:
    single = copy.copy(pipeline)
    single.unet = without_motion(pipeline.unet)
    return single
