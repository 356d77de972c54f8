"""Fixtures that several tests share, and what holds for all of them: one thread each, and what is skipped where."""

import os
from pathlib import Path

import datasets
import huggingface_hub
import pytest
import torch

pytest_plugins = ["hub_users"]

ROOT = Path(__file__).resolve().parents[1]
NO_MNIST = "there is no copy of MNIST: set HFGEN_TEST_MNIST to the path of one in the layout of ylecun/mnist"
# fixtures that start an interpreter, by whatever fixtures they are reached
STARTS = {"ours", "stranger", "script"}


def pytest_configure():
    """One thread a process: several processes share the cores, and tiny models gain nothing from more."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks that follow from what a test uses."""
    no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
    for item in items:
        if "hub" in item.fixturenames:
            item.add_marker("hub")
        if STARTS & set(item.fixturenames):
            item.add_marker("slow")
        if item.get_closest_marker("gpu"):
            item.add_marker(no_gpu)


def pytest_terminal_summary(terminalreporter):
    """Say what was not tested for want of data."""
    skipped = sum(NO_MNIST in str(report.longrepr) for report in terminalreporter.stats.get("skipped", []))
    if skipped:
        terminalreporter.write_line(f"{skipped} tests were skipped, as {NO_MNIST}", yellow=True)


@pytest.fixture(scope="session")
def repository() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def mnist_path() -> str:
    """A local copy of MNIST in the Hub's layout. Without one tests are skipped; in CI, or where it was asked for, they fail."""
    asked = os.environ.get("HFGEN_TEST_MNIST")
    path = Path(asked or ROOT.parent / "shared" / "data" / "mnist")
    if path.is_dir():
        return str(path)
    if asked or os.environ.get("CI") == "true":
        pytest.fail(f"{path} is no folder: {NO_MNIST}")
    pytest.skip(NO_MNIST)


@pytest.fixture
def offline(monkeypatch):
    """As HF_HUB_OFFLINE=1 does, which the libraries read only when they are imported."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
