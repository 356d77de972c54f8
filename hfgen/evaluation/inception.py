"""The network of the FID: Inception v3 as its authors used it, by torch-fidelity, which has its weights and its resizing."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from hfgen.core.errors import HfgenError, one_line
from hfgen.evaluation.features import Extractor

WEIGHTS = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
SHA256 = "6726825d"
SECONDS_TO_WAIT = 30
WITHOUT = "dinov2 and clip come from the Hub, digits with hfgen, and `hfgen train-features` makes a folder to name here"


class InceptionNetwork(Extractor):
    """The 2,048 features before the classifier, of which the Frechet distance is the FID.

    Args:
        network: from uint8 pixels (B, 3, H, W) to a tuple whose first part is the features.
    """

    name = "Inception network of the FID"
    channels, num_features, is_fid = 3, 2048, True

    def __init__(self, network: torch.nn.Module, device: torch.device | str):
        self.network, self.class_names = network.eval().to(device), []

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        return next(self.network.parameters()).device

    def extract(self, pixels):
        """As `Extractor.extract`."""
        return self.network(pixels.contiguous())[0], None


def load_inception(device: torch.device | str) -> InceptionNetwork:
    """The network, whose weights are downloaded once; `HfgenError` where it or they cannot be had."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise HfgenError(
            f"--features inception needs torch-fidelity ({one_line(error, 100)}): pip install 'hfgen[fid]'; {WITHOUT}"
        ) from error
    return InceptionNetwork(FeatureExtractorInceptionV3("inception", ["2048"], str(fid_weights())), device)


def fid_weights(url: str = WEIGHTS, sha256: str = SHA256) -> Path:
    """The file of the weights in torch's cache, where the first call puts it; `sha256` are the first digits of its hash.

    Raises `HfgenError` for a download that fails and a file that is damaged. No code of a pickle is run.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    try:
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            with _impatient():
                torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256, progress=False)
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of urllib, of the hash, of the unpickler: the weights cannot be had
        raise HfgenError(
            f"--features inception: its weights cannot be had from {url} ({one_line(error, 100)}), nor from {path}: {WITHOUT}"
        ) from error
    return path


@contextmanager
def _impatient() -> Iterator[None]:
    """A server that is silent is one that is not there; torch's download waits for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SECONDS_TO_WAIT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
