"""What is measured of clips, on paths and pictures whose numbers are known."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from hfgen.core.errors import HfgenError
from hfgen.data.moving import bounce
from hfgen.evaluation.clips import centred, centres, clip_metrics, straightness


def path(start, velocity, room, frames):
    return torch.from_numpy(bounce(np.array(start, float), np.array(velocity, float), np.array(room, float), frames))[
        None
    ]


@pytest.mark.parametrize(("frames", "velocity"), [(8, (1.0, -0.5)), (8, (0.0, 2.0)), (16, (1.5, -1.0))])
def test_a_bouncing_path_is_straight_and_as_fast_as_it_was_made(frames, velocity):
    """Turns at halves of a frame, which the fit tries, leave nothing over."""
    error, speed = straightness(path((6.0, 7.0), velocity, (12.0, 12.0), frames))
    assert error.item() < 1e-6
    assert speed.item() == pytest.approx(np.hypot(*velocity), abs=1e-9)


def test_noise_about_a_path_is_its_error_but_for_what_the_fit_takes_up():
    """Of 16 numbers of 8 frames a line takes up 4; a turn more takes up less than another 4."""
    noise = 0.3 * torch.randn(2000, 8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    error, _ = straightness(path((3.0, 4.0), (0.9, 0.4), (12.0, 12.0), 8) + noise)
    mean_square = error.square().mean().item() / 0.3**2
    assert 2 * (8 - 4) / 8 < mean_square < 2 * (8 - 2) / 8


def test_a_path_of_independent_places_is_not_straight():
    places = 12 * torch.rand(200, 8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    error, _ = straightness(places)
    assert error.min() > 0.5
    assert error.mean() > 2.5


def test_three_frames_are_too_few():
    with pytest.raises(HfgenError, match="4 or more"):
        straightness(torch.zeros(1, 3, 2))


def test_centres_and_windows_follow_a_square():
    clips = torch.zeros(1, 3, 1, 16, 16, dtype=torch.uint8)
    clips[0, 0, 0, 2:4, 3:5] = 200  # centre (2.5, 3.5)
    clips[0, 1, 0, 10:12, 12:14] = 200
    found = centres(clips)
    assert found[0].tolist() == [[2.5, 3.5], [10.5, 12.5], [7.5, 7.5]]  # the last frame is dark
    windows = centred(clips)
    assert windows.shape == (1, 3, 1, 14, 14)
    assert torch.equal(windows[0, 0], windows[0, 1])
    assert windows[0, 0, 0, 6:8, 6:8].eq(200).all()


class Brightness:
    """A classifier into dark and bright."""

    class_names = ("dark", "bright")
    num_features = 1

    def __call__(self, images, show_progress=True):
        from hfgen.evaluation.features import Features

        bright = images.images.flatten(1).amax(1) > 200
        return Features(torch.zeros(len(bright), 1), torch.stack([~bright, bright], 1).float())


def test_shares_of_clips_by_class():
    clips = torch.zeros(4, 4, 1, 16, 16, dtype=torch.uint8)
    clips[:, :, :, 4:8, 4:8] = 150
    clips[1:, :, :, 4:8, 4:8] = 250
    clips[3, 2, :, 4:8, 4:8] = 150  # one frame of another class
    found = clip_metrics({"": clips}, Brightness(), torch.tensor([0, 0, 1, 1]))
    assert found["same_class"].mean == 0.75
    assert found["class_agreement"].mean == (3 + 3 / 4) / 4
    assert found["class_accuracy"].mean == 0.5
    assert found["motion_error"].mean == pytest.approx(0, abs=1e-9)
    assert found["speed"].mean == pytest.approx(0, abs=1e-9)


def test_the_shipped_classifier_knows_digits_that_move():
    """Upscaled 8x8 digits are none of MNIST's: nine of ten are known in the middle, and as many where they move."""
    from PIL import Image as Pillow

    from hfgen.data.moving import moving_clip
    from hfgen.evaluation.clips import frame_classes
    from hfgen.evaluation.networks import load_feature_network

    digits = load_digits()
    pictures = [Pillow.fromarray(np.rint(x * (255 / 16)).astype(np.uint8)) for x in digits.images[:40]]
    clips = torch.from_numpy(np.stack([moving_clip(picture, 32, 4) for picture in pictures]))
    classes = frame_classes(clips, load_feature_network())
    assert (classes == classes[:, :1]).all()
    assert (classes[:, 0] == torch.from_numpy(digits.target[:40])).double().mean() > 0.7
