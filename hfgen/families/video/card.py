"""What the card of a model of clips tells."""

from __future__ import annotations

import shlex
from typing import Any

from hfgen.core.markdown import python_text
from hfgen.families.base import Card
from hfgen.families.text_to_image.card import OTHER_WORDS, UNMEASURED, example_prompt
from hfgen.families.video.motion import motion_parameters
from hfgen.families.video.stored import clip_frames, noise_share
from hfgen.families.words import COLOURS, parameter_words
from hfgen.results import EvaluationResult, TrainingRecord

TASK = "text-to-video"
CODE = """```python
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import export_to_gif

pipeline = DiffusionPipeline.from_pretrained("{name}")
generator = torch.Generator().manual_seed(0)
{noise}
frames = pipeline("{prompt}", num_frames={frames}{latents}).frames[0]
export_to_gif(frames, "clip.gif", fps=8)
```
"""
SHARED = """shared, own = (torch.randn(1, {channels}, n, {height}, {width}, generator=generator) for n in (1, {frames}))
noise = {share:g}**0.5 * shared + {rest:g}**0.5 * own"""
OWN = "noise = torch.randn(1, {channels}, {frames}, {height}, {width}, generator=generator)"
STOCK = """
AnimateDiffPipeline draws a noise of its own for each frame where it is passed none. This model was trained on noise that frames share in
part (lambda {share:g}: the covariance between frames), so pass such noise as `latents=`, as above. The scheduler is a DDIM, whose steps add
no noise; one whose steps do, such as DDPM, draws it for each frame alone.
"""
COMMAND = """
With hfgen, which starts from such noise by itself, on the command line; it writes a GIF beside the picture of the frames:
"""


def video_card(pipeline: Any, name: str, training: TrainingRecord | None, results: EvaluationResult | None) -> Card:
    """The card of a stock `AnimateDiffPipeline`."""
    share, prompt = noise_share(pipeline), example_prompt(training)
    positions = pipeline.unet.config.motion_max_seq_length
    return Card(
        summary=_summary(pipeline, share),
        usage=_usage(pipeline, name, prompt, share),
        samples="Frames of clips from left to right, a caption a row, not selected; [as an animation](samples.gif).",
        limits=[
            OTHER_WORDS,
            f"Clips of more than {positions} frames cannot be drawn; it was trained on {clip_frames(pipeline)}.",
            *([] if results is not None else [UNMEASURED]),
        ],
        tags=["text-to-video", "animatediff"],
        pictures={"strips": "Frames of held-out clips, each above a clip drawn from its caption, not selected."},
        task=TASK,
        sample_flags=f"--prompt {shlex.quote(prompt)} --num_images 8",
    )


def _summary(pipeline: Any, share: float) -> str:
    height, width = _latent_sides(pipeline)
    factor, channels = pipeline.vae_scale_factor, pipeline.vae.config.out_channels
    moving = sum(p.numel() for p in motion_parameters(pipeline.unet))
    return (
        f"A model of clips of {clip_frames(pipeline)} frames of {height * factor}x{width * factor} in {COLOURS.get(channels, channels)}: motion "
        f"modules (Guo et al. 2024) of {moving:,} parameters in a text-to-image model of {parameter_words(pipeline.unet)} with them, which was not "
        f"trained along, on noise that frames share (Luo et al. 2023, lambda {share:g}). Stock diffusers loads it."
    )


def _usage(pipeline: Any, name: str, prompt: str, share: float) -> str:
    height, width = _latent_sides(pipeline)
    frames = clip_frames(pipeline)
    noise = (SHARED if share else OWN).format(
        channels=pipeline.unet.config.in_channels,
        height=height,
        width=width,
        frames=frames,
        share=share,
        rest=round(1 - share, 6),
    )
    code = CODE.format(name=name, noise=noise, prompt=python_text(prompt), frames=frames, latents=", latents=noise")
    return f"{code}{STOCK.format(share=share) if share else ''}{COMMAND}"


def _latent_sides(pipeline: Any) -> tuple[int, int]:
    size = pipeline.unet.config.sample_size
    return (size, size) if isinstance(size, int) else tuple(size)
