"""Fixtures that several tests share."""

from pathlib import Path

import datasets
import huggingface_hub
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def mnist_path() -> str:
    """A local copy of MNIST in the Hub's layout; tests that need one are skipped without it."""
    path = ROOT.parent / "shared" / "data" / "mnist"
    if not path.is_dir():
        pytest.skip("no local copy of MNIST")
    return str(path)


@pytest.fixture
def offline(monkeypatch):
    """As HF_HUB_OFFLINE=1 does, which the libraries read only when they are imported."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
