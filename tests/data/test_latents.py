"""Latents in the place of pixels."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from latent_repositories import autoencoder

from hfgen.configs.training import DataConfig
from hfgen.core.errors import HfgenError
from hfgen.core.media import to_model_range
from hfgen.core.random import seeded
from hfgen.data import latents as module
from hfgen.data.latents import Encoded, Latents, decoded, encode_training_set, latent_shape, moments, scaled, unscaled
from hfgen.data.loading import ImagesInMemory
from hfgen.data.streaming import StreamShare
from hfgen.data.training_set import load_training_set

CPU = torch.device("cpu")


def pixels(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=seeded("cpu", 3))


@pytest.fixture(scope="module")
def vae():
    return autoencoder(shift_factor=0.3)


def test_z_is_drawn_by_its_eps_shifted_and_scaled(vae):
    raw = moments(vae, pixels(5, 1, 8, 8))
    eps = torch.randn(5, 2, 4, 4, generator=seeded("cpu", 4))
    q = vae.encode(to_model_range(pixels(5, 1, 8, 8))).latent_dist
    z = Latents(autoencoder=vae, shape=(2, 4, 4)).prepare(raw, {"latent_noise": eps})
    # float32 sums of other batches
    torch.testing.assert_close(z, (q.mean + q.std * eps - 0.3) * 1.7, rtol=0, atol=1e-5)
    torch.testing.assert_close(unscaled(scaled(z, vae), vae), z)
    torch.testing.assert_close(decoded(z, vae), vae.decode(z / 1.7 + 0.3).sample, rtol=0, atol=1e-5)


def test_frames_are_encoded_one_by_one(vae):
    clips = pixels(3, 4, 1, 8, 8)
    found = moments(vae, clips)
    assert found.shape == (3, 4, 4, 4, 4)
    torch.testing.assert_close(found[1], moments(vae, clips[1]), rtol=0, atol=1e-5)
    kind = Latents(autoencoder=vae, shape=(4, 2, 4, 4))
    assert kind.prepare(found, {"latent_noise": torch.zeros(3, 4, 2, 4, 4)}).shape == (3, 4, 2, 4, 4)
    assert kind.drawn.normal == {"latent_noise": (4, 2, 4, 4)}
    assert decoded(torch.zeros(3, 4, 2, 4, 4), vae).shape == clips.shape


def test_of_mirrored_rows_the_number_of_the_row_says_which_is_drawn(vae):
    images = pixels(4, 1, 8, 8)
    rows = Encoded(rows=ImagesInMemory(images), autoencoder=vae, mirrored=True)
    (raw,) = rows.batches([torch.arange(4)])
    kind = Latents(autoencoder=vae, shape=(2, 4, 4), mirrored=True)
    random = {"latent_noise": torch.zeros(4, 2, 4, 4), "flip": torch.tensor([0.0, 0.49, 0.5, 0.99])}
    z = kind.augment(kind.prepare(raw, random), random)
    wanted = moments(vae, torch.cat([images[:2], images[2:].flip(-1)]))[:, :2]
    torch.testing.assert_close(z, scaled(wanted, vae), rtol=0, atol=1e-5)


def digits(**flags):
    data = DataConfig(dataset_name="digits", validation_split="test", max_train_samples=20, **flags)
    return load_training_set(data, channels=None, resolution=None, seed=0, accelerator=Accelerator(cpu=True))


def test_a_stream_is_encoded_as_it_comes(vae):
    data = DataConfig(dataset_name="digits", streaming=True, max_validation_samples=20, shuffle_buffer_size=8)
    images = load_training_set(data, channels=None, resolution=None, seed=0, accelerator=Accelerator(cpu=True))
    stream = encode_training_set(images, vae, CPU, show_progress=False).stream
    segment = stream.segment([stream.lane(0, 1, None)], 8)
    share = StreamShare(stream, lanes=1, own=range(1), rows=8)
    share.steps = iter([[segment]])
    ((rows, raw, labels),) = share.micro_batches(1, 8)
    assert rows.equal(segment.rows)
    assert labels.equal(segment.labels)
    torch.testing.assert_close(raw, moments(vae, segment.images), rtol=0, atol=0)


@pytest.mark.parametrize("flip", [False, True])
def test_what_does_not_fit_is_encoded_as_it_comes(vae, monkeypatch, flip):
    images = digits(random_flip=flip)
    kept = encode_training_set(images, vae, CPU, show_progress=False)
    assert (kept.shape, isinstance(kept.train, ImagesInMemory), len(kept.validation)) == ((2, 4, 4), True, 297)
    assert kept.representation.mirrored == flip
    assert kept.train_labels is images.train_labels
    monkeypatch.setattr(module, "free_memory", lambda device: 0)
    streamed = encode_training_set(images, vae, CPU, show_progress=False)
    assert isinstance(streamed.train, Encoded)
    rows = [torch.tensor([3, 1, 4])]
    for a, b in ((kept.train, streamed.train), (kept.validation, streamed.validation)):
        torch.testing.assert_close(next(a.batches(rows)), next(b.batches(rows)), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((3, 8, 8), "images of 3 channels: the autoencoder takes 1"),
        ((1, 7, 7), "use a multiple such as --resolution 6"),
    ],
)
def test_other_images_are_refused(vae, shape, words):
    with pytest.raises(HfgenError, match=words):
        latent_shape(vae, shape)


def test_only_the_last_three_dimensions_change(vae):
    assert latent_shape(vae, (5, 1, 8, 8)) == (5, 2, 4, 4)
    of_sd = SimpleNamespace(config=SimpleNamespace(in_channels=3, latent_channels=4, block_out_channels=(1, 2, 3, 4)))
    assert latent_shape(of_sd, (3, 512, 512)) == (4, 64, 64)
