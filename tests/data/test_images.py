"""Batches from memory and streamed."""

import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from hfgen.core.errors import HfgenError, explain
from hfgen.core.media import to_model_range
from hfgen.data import loading as images_module
from hfgen.data.decode import ImageReader, undecoded
from hfgen.data.digits import embedded_digits
from hfgen.data.loading import ImagesInMemory, ImagesStreamed, decode_all, load_images
from hfgen.data.sources import load_source

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits():
    return undecoded(embedded_digits()["test"], "image")


def reader(dataset, resolution=8):
    return ImageReader(dataset=dataset, column="image", channels=1, resolution=resolution, center_crop=False, seed=0)


def test_decoded_images_are_the_source(digits):
    decoded = decode_all(reader(digits), show_progress=False)
    assert decoded.dtype == torch.uint8
    assert decoded.shape == (297, 1, 8, 8)
    assert np.array_equal(np.rint(decoded[:, 0].numpy() * (16 / 255)), load_digits().images[1500:])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_streamed_and_in_memory_batches_are_identical(digits, num_workers):
    # 6 of the 8 pixels, so that each row has its own crop
    crops = ImageReader(
        dataset=digits.select(range(40)), column="image", channels=1, resolution=6, center_crop=False, seed=3
    )
    rows = torch.randperm(40, generator=torch.Generator().manual_seed(0)).split(16)
    in_memory = ImagesInMemory(decode_all(crops, show_progress=False))
    streamed = ImagesStreamed(crops, CPU, num_workers)
    assert len(in_memory) == len(streamed) == 40
    batches = list(zip(in_memory.batches(rows), streamed.batches(rows), strict=True))
    assert [len(batch) for batch, _ in batches] == [16, 16, 8]
    for ours, theirs in batches:
        assert ours.dtype == theirs.dtype == torch.uint8
        assert ours.equal(theirs)
    assert batches[0][0][0].equal(in_memory.images[rows[0][0]])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_streaming_an_unreadable_image_names_its_row(digits, num_workers):
    broken = undecoded(
        digits.select(range(3)).map(
            lambda row, i: {"image": {"bytes": b"no image", "path": None} if i == 1 else row["image"]},
            with_indices=True,
        ),
        "image",
    )
    batches = ImagesStreamed(reader(broken), CPU, num_workers).batches([torch.tensor([0]), torch.tensor([1, 2])])
    assert next(batches).shape == (1, 1, 8, 8)
    with pytest.raises(HfgenError, match=r"^row 1 of image column 'image' is unreadable") as error:
        next(batches)
    assert "\n" not in str(error.value)
    assert not multiprocessing.active_children()  # its workers have ended


def test_images_that_do_not_fit_are_streamed(digits):
    huge = reader(digits, resolution=2**20)  # 297 TiB
    assert isinstance(load_images(huge, CPU, show_progress=False), ImagesStreamed)


def test_images_that_take_three_tenths_of_the_memory_are_kept(digits, monkeypatch):
    size = 297 * 8 * 8
    monkeypatch.setattr(images_module, "free_memory", lambda device: size / 0.3 + 1)
    in_memory = load_images(reader(digits), CPU, show_progress=False)
    assert isinstance(in_memory, ImagesInMemory)
    assert in_memory.images.numel() == size
    monkeypatch.setattr(images_module, "free_memory", lambda device: size / 0.3 - 1)
    assert isinstance(load_images(reader(digits), CPU, show_progress=False), ImagesStreamed)


def test_the_processes_of_a_machine_share_its_memory(digits, monkeypatch):
    size = 297 * 8 * 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    for free, kind in ((4 * size / 0.3 + 1, ImagesInMemory), (4 * size / 0.3 - 1, ImagesStreamed)):
        monkeypatch.setattr(images_module, "free_memory", lambda device, free=free: free)
        assert isinstance(load_images(reader(digits), CPU, show_progress=False), kind)


def test_a_worker_that_dies_is_told_in_a_line(digits):
    batches = ImagesStreamed(reader(digits), CPU, 1).batches(torch.arange(297).split(3))
    next(batches)
    (worker,) = multiprocessing.active_children()
    worker.kill()
    with pytest.raises((HfgenError, RuntimeError)) as caught:  # torch raises where the signal of its death finds us
        list(batches)
    line = explain(caught.value)
    assert line.startswith("a process that decodes images ")
    assert line.endswith("--resume_from_checkpoint latest")


def test_a_worker_outlives_the_signals_of_a_launcher(digits):
    batches = ImagesStreamed(reader(digits), CPU, 1).batches(torch.arange(297).split(3))
    first = next(batches)
    (worker,) = multiprocessing.active_children()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        os.kill(worker.pid, number)
    assert sum(map(len, batches), len(first)) == 297


def test_a_loader_leaves_torchs_random_numbers_alone(digits):
    state = torch.get_rng_state()
    for workers in (0, 1):
        next(ImagesStreamed(reader(digits), CPU, workers).batches([torch.tensor([0])]))
    assert torch.get_rng_state().equal(state)


def test_bytes_become_the_model_range():
    values = to_model_range(torch.arange(256, dtype=torch.uint8))
    assert values.dtype == torch.float32
    assert values[0] == -1
    assert values[255] == 1
    # one division and one subtraction in float32
    np.testing.assert_allclose(values, np.arange(256) / 127.5 - 1, atol=2e-7)


@pytest.mark.slow
def test_mnist_has_its_published_mean_and_deviation(mnist_path, tmp_path):
    train = load_source(mnist_path, cache_dir=str(tmp_path))["train"]
    images = ImageReader(
        dataset=undecoded(train, "image"), column="image", channels=1, resolution=28, center_crop=True, seed=0
    )
    decoded = decode_all(images, show_progress=False)
    assert decoded.shape == (60_000, 1, 28, 28)
    pixels = decoded.numpy() / 255
    # the published figures have five decimals
    assert round(pixels.mean().item(), 5) == 0.13066
    assert round(pixels.std().item(), 5) == 0.30811
