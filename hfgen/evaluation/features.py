"""Features and class probabilities of images, by a frozen network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from hfgen.core.errors import HfgenError
from hfgen.core.processes import is_first, shared
from hfgen.core.resume import tensors_digest

BATCH = 500
BICUBIC = 3  # Pillow's number, as preprocessors have it


class NotFinite(HfgenError):
    """Features that are nan or inf."""


@dataclass(frozen=True)
class Features:
    """Of N images: `features`, float32 (N, F), and `probabilities` of classes, float32 (N, classes), None of a network without."""

    features: torch.Tensor
    probabilities: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.features)

    def first(self, count: int) -> Features:
        """Those of the first `count` images."""
        return Features(self.features[:count], None if self.probabilities is None else self.probabilities[:count])


class Extractor(ABC):
    """A network that says what images look like.

    Attributes:
        name: what reports call its features.
        channels: that it takes; grey images are repeated where it wants colours.
        num_features: F, the length of an image's features.
        class_names: by the number of the class; empty for a network without classes.
        is_fid: whether its Frechet distance is the FID.
    """

    name: str
    channels: int
    num_features: int
    class_names: list[str]
    is_fid = False

    def digest(self) -> str:
        """Of its weights and of what images go through before them; "" of a network that its name tells."""
        return ""

    def numbers_of(self, names: Sequence[str] | None) -> torch.Tensor | None:
        """Its own numbers of a model's classes, int64 (len(names),), by their names; None where they are others, or none."""
        if not names or set(names) != set(self.class_names):
            return None
        return torch.tensor([self.class_names.index(name) for name in names])

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the network lies."""

    @abstractmethod
    def extract(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Features (B, F) and logits (B, classes), or None, of uint8 pixels (B, channels, H, W) on its device."""

    def coloured(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels (B, C, H, W) with as many channels as the network takes; `HfgenError` for colours where it wants grey."""
        if pixels.shape[1] not in (1, self.channels):
            raise HfgenError(
                f"images of {pixels.shape[1]} channels: {self.name} takes {self.channels}; name other --features"
            )
        return pixels.to(self.device).expand(-1, self.channels, -1, -1)

    @torch.no_grad()
    def __call__(self, images, *, show_progress: bool = True) -> Features:
        """Of all images of `ImagesInMemory` or `ImagesStreamed`, of clips of each frame; `HfgenError` for features that are not finite."""
        rows, parts = torch.arange(len(images)).split(BATCH), []

        def found(own: Sequence[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
            for pixels in images.batches(own):
                features, logits = self.extract(self.coloured(pixels.flatten(0, -4)))
                yield features.float().cpu(), None if logits is None else logits.float().cpu()

        hidden = not (show_progress and is_first())
        with tqdm(total=len(rows), desc="features", unit="batch", disable=hidden) as bar:
            for _, part in shared(rows, found):
                parts.append(part)
                bar.update()
        features = torch.cat([part for part, _ in parts])
        logits = [part for _, part in parts if part is not None]
        probabilities = torch.cat(logits).softmax(1) if logits else None
        if not all(tensor.isfinite().all() for tensor in (features, probabilities) if tensor is not None):
            raise NotFinite(f"--features {self.name} gives features that are nan or inf: its weights are damaged")
        return Features(features, probabilities)


class Preprocessed(Extractor):
    """A model of `transformers` and how images are brought to it.

    Args:
        model: with a config.
        preprocessor: the values of its preprocessor_config.json: size, resample, image_mean, image_std.
        name: what reports call its features.
    """

    def __init__(self, model: torch.nn.Module, preprocessor: Mapping[str, Any], name: str):
        self.model, self.name = model.eval(), name
        self.size = _size(preprocessor, model.config)
        self.mode = "bicubic" if preprocessor.get("resample") == BICUBIC else "bilinear"
        mean, std = (preprocessor.get(key) or [0.5] for key in ("image_mean", "image_std"))
        if not preprocessor.get("do_normalize", True):
            mean, std = [0.0], [1.0]
        self.mean, self.std = (torch.tensor(v, device=model.device).view(-1, 1, 1) for v in (mean, std))
        self.channels = getattr(model.config, "num_channels", 3)

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        return self.model.device

    def digest(self) -> str:
        """As `Extractor.digest`."""
        tensors = {**self.model.state_dict(), "mean of pixels": self.mean, "deviation of pixels": self.std}
        return tensors_digest(tensors, self.name, self.mode, *map(str, self.size), *self.class_names)

    def prepare(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels 0..255, (B, C, H, W), as the network takes them: the whole image, brought to its size. Errors as `coloured`."""
        x = self.coloured(pixels).float().div(255)
        if x.shape[-2:] != self.size:
            x = F.interpolate(x, self.size, mode=self.mode, antialias=True, align_corners=False).clamp(0, 1)
        return (x - self.mean) / self.std


class FeatureNetwork(Preprocessed):
    """A classifier: its features are what the last linear layer, which gives the logits, takes."""

    def __init__(self, model: torch.nn.Module, preprocessor: Mapping[str, Any], name: str = "digit classifier"):
        super().__init__(model, preprocessor, name)
        self.last = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
        self.num_features = self.last.in_features
        self.class_names = [model.config.id2label[i] for i in range(self.last.out_features)]

    def extract(self, pixels):
        """As `Extractor.extract`."""
        found: list[torch.Tensor] = []
        handle = self.last.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].flatten(1)))
        try:
            logits = self.model(self.prepare(pixels)).logits
        finally:
            handle.remove()
        return found[0], logits


class EmbeddingNetwork(Preprocessed):
    """A network without classes: its features are the one vector that it makes of an image."""

    def __init__(self, model: torch.nn.Module, preprocessor: Mapping[str, Any], name: str):
        super().__init__(model, preprocessor, name)
        self.class_names = []
        projection = getattr(model, "visual_projection", None)
        self.num_features = model.config.hidden_size if projection is None else projection.out_features

    def extract(self, pixels):
        """As `Extractor.extract`: the projected embedding of a CLIP, the class token of a DINOv2, after its last norm."""
        output = self.model(self.prepare(pixels))
        projected = getattr(output, "image_embeds", None)
        return (output.last_hidden_state[:, 0] if projected is None else projected), None


def _size(preprocessor: Mapping[str, Any], config) -> tuple[int, int]:
    size = preprocessor.get("crop_size") or preprocessor.get("size") or getattr(config, "image_size", 224)
    if isinstance(size, dict):
        side = size.get("shortest_edge")
        return (side, side) if side else (size["height"], size["width"])
    return (size, size) if isinstance(size, int) else tuple(size)
