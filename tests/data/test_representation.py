"""What a model sees of rows."""

import torch

from hfgen.data.representation import Pixels


def test_pixels_are_scaled_and_channels_last():
    raw = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).reshape(2, 3, 4, 5)
    data = Pixels().prepare(raw, {})
    assert data.dtype == torch.float32
    torch.testing.assert_close(data, raw / 127.5 - 1)
    assert data.is_contiguous(memory_format=torch.channels_last)


def test_half_of_the_rows_are_mirrored_when_asked_for():
    data = torch.randn(4, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    random = {"flip": torch.tensor([0.0, 0.49, 0.5, 0.99])}
    mirrored = Pixels(random_flip=True).augment(data, random)
    assert mirrored[:2].equal(data[:2])
    for row in (2, 3):
        assert mirrored[row, 0].equal(data[row, 0][:, [2, 1, 0]])
    assert Pixels().augment(data, random).equal(data)


def test_a_flag_changes_no_other_number():
    assert Pixels().random == Pixels(random_flip=True).random
