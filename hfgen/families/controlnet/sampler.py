"""How images are drawn that follow pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch

from hfgen.core.errors import HfgenError, one_line
from hfgen.core.resume import tensors_digest
from hfgen.data.conditions import Conditions
from hfgen.data.decode import converted, eight_bits
from hfgen.families.controlnet.flags import ControlSampling
from hfgen.families.controlnet.module import as_condition
from hfgen.families.text_to_image.loading import image_shape
from hfgen.families.text_to_image.sampler import TextSampler

# the trainers' background of what is transparent, unless they are told another
WHITE = (255, 255, 255)


class ControlSampler(TextSampler):
    """Draws image i of the prompt i and after the picture i, each modulo their number.

    Raises `HfgenError` for pictures that cannot be read or are of another size than the images, and as `TextSampler`.
    """

    def __init__(self, pipeline: Any, options: ControlSampling, compile: bool = False):
        super().__init__(pipeline, options, compile)
        self.options = options
        self.conditions = options.conditions
        if options.control is not None:
            self.conditions = Conditions(images=read_controls(options.control, image_shape(pipeline)), transform=None)
        if self.conditions is not None:
            scale = "" if options.control_scale == 1 else f", control {options.control_scale:g}"
            count = len(self.conditions.images)
            self.how = f"{self.how}, after {count:,} {'picture' if count == 1 else 'pictures'}{scale}"

    @property
    def identity(self) -> dict[str, str]:
        """What the images depend on beside the options: the pictures in the files that these name."""
        return {} if self.conditions is None else {"followed": tensors_digest({"pictures": self.conditions.images})}

    def followed(self, first: int, count: int) -> torch.Tensor:
        """The pictures of those images, uint8 (count, C, H, W); `HfgenError` where there are none."""
        if self.conditions is None:
            raise HfgenError("this model follows pictures: pass --control IMAGE, several in turn")
        pictures = self.conditions.images
        return pictures[torch.arange(first, first + count) % len(pictures)]

    def arguments(self, first, count):
        """The prompts and pictures of those images."""
        pictures = as_condition(self.followed(first, count)).to(self.pipeline.device)
        scale = float(self.options.control_scale)
        return {**super().arguments(first, count), "image": pictures, "controlnet_conditioning_scale": scale}

    def uncontrolled(self) -> ControlSampler:
        """The same without its pictures having any say."""
        return ControlSampler(self.pipeline, replace(self.options, control_scale=0.0))


def read_controls(paths: tuple[str, ...], shape: tuple[int, int, int]) -> torch.Tensor:
    """Pictures to follow from their files, uint8 (N, 3, H, W); `HfgenError` for one that is none or of another size than `shape`."""
    wanted = (shape[2], shape[1])
    found = []
    for path in map(Path, paths):
        try:
            with PIL.Image.open(path) as image:
                picture = converted(eight_bits(PIL.ImageOps.exif_transpose(image)), 3, WHITE, str(path))
        except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
            raise HfgenError(
                f"--control {path} is no picture that can be read ({one_line(error, 200)}): pass a PNG"
            ) from error
        if picture.size != wanted:
            raise HfgenError(
                f"--control {path} is of {picture.width}x{picture.height} pixels, and the model's images of {wanted[0]}x{wanted[1]}: "
                "resize it first"
            )
        found.append(torch.from_numpy(np.array(picture)).permute(2, 0, 1))
    return torch.stack(found)
