"""Features and class probabilities of images, by a frozen image classifier of `transformers`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from tqdm.auto import tqdm

from hfgen.core.errors import HfgenError

DIGITS_CLASSIFIER = Path(__file__).with_name("digit_classifier")
PREPROCESSOR_FILE = "preprocessor_config.json"
BATCH = 500


@dataclass(frozen=True)
class Features:
    """Of N images: `features`, float32 (N, F), what the last linear layer takes, and `probabilities`, float32 (N, classes)."""

    features: torch.Tensor
    probabilities: torch.Tensor

    def __len__(self) -> int:
        return len(self.features)

    def first(self, count: int) -> Features:
        """Those of the first `count` images."""
        return Features(self.features[:count], self.probabilities[:count])


class FeatureNetwork:
    """A classifier and how images are brought to it.

    Args:
        model: an image classifier of `transformers` whose last linear layer gives the logits.
        preprocessor: the values of its preprocessor_config.json: size, image_mean, image_std.
        name: what reports call its features.
    """

    def __init__(self, model: torch.nn.Module, preprocessor: dict, name: str = "digit classifier"):
        self.model, self.name = model.eval(), name
        self.size = _size(preprocessor, model.config)
        mean, std = (preprocessor.get(key) or [0.5] for key in ("image_mean", "image_std"))
        if not preprocessor.get("do_normalize", True):
            mean, std = [0.0], [1.0]
        self.mean, self.std = (torch.tensor(v, device=model.device).view(-1, 1, 1) for v in (mean, std))
        self.channels = getattr(model.config, "num_channels", 3)
        self.last = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        return self.model.device

    @property
    def num_features(self) -> int:
        """F, the length of an image's features."""
        return self.last.in_features

    @property
    def class_names(self) -> list[str]:
        """By the number of the class."""
        return [self.model.config.id2label[i] for i in range(self.last.out_features)]

    def prepare(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels 0..255, (B, C, H, W), as the network takes them; grey ones are repeated where it wants colours.

        Raises `HfgenError` for colours where it wants grey ones.
        """
        if pixels.shape[1] not in (1, self.channels):
            raise HfgenError(
                f"images of {pixels.shape[1]} channels: {self.name} takes {self.channels}; name other --features"
            )
        x = pixels.to(self.device).float().div(255).expand(-1, self.channels, -1, -1)
        if x.shape[-2:] != self.size:
            x = F.interpolate(x, self.size, mode="bilinear", antialias=True, align_corners=False)
        return (x - self.mean) / self.std

    @torch.no_grad()
    def __call__(self, images) -> Features:
        """Of all images of `ImagesInMemory` or `ImagesStreamed`; `HfgenError` for features that are not finite."""
        rows, found, logits = torch.arange(len(images)).split(BATCH), [], []
        handle = self.last.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].flatten(1).float().cpu()))
        try:
            for pixels in tqdm(images.batches(rows), desc="features", total=len(rows), unit="batch"):
                logits.append(self.model(self.prepare(pixels)).logits.float().cpu())
        finally:
            handle.remove()
        features = Features(torch.cat(found), torch.cat(logits).softmax(1))
        if not (features.features.isfinite().all() and features.probabilities.isfinite().all()):
            raise HfgenError(f"--features {self.name} gives features that are nan or inf: its weights are damaged")
        return features


def load_feature_network(name_or_path: str | Path | None = None, device: torch.device | str = "cpu") -> FeatureNetwork:
    """The shipped classifier of MNIST's digits, or any image classifier of `transformers`: a folder or a repository.

    Weights are read from safetensors alone and no code of a repository is run. Raises `HfgenError` for what cannot be loaded,
    and for weights without the last layer of a classifier.
    """
    from transformers import AutoModelForImageClassification
    from transformers.utils import cached_file

    path = str(name_or_path or DIGITS_CLASSIFIER)
    try:
        model, found = AutoModelForImageClassification.from_pretrained(
            path, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
        if found["missing_keys"]:
            raise ValueError(f"no weights of {', '.join(sorted(found['missing_keys']))}")
        preprocessor = json.loads(Path(cached_file(path, PREPROCESSOR_FILE)).read_text())
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise HfgenError(
            f"--features {path} cannot be loaded ({reason}): pass a folder or repository of an image classifier with "
            f"safetensors and {PREPROCESSOR_FILE}"
        ) from error
    name = "digit classifier" if name_or_path is None else Path(path).name if Path(path).exists() else path
    return FeatureNetwork(model.to(device), preprocessor, name)


def _size(preprocessor: dict, config) -> tuple[int, int]:
    size = preprocessor.get("crop_size") or preprocessor.get("size") or getattr(config, "image_size", 224)
    if isinstance(size, dict):
        side = size.get("shortest_edge")
        return (side, side) if side else (size["height"], size["width"])
    return (size, size) if isinstance(size, int) else tuple(size)
