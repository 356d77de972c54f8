"""Clips: digits that move, folders, GIFs, lists of images, arrays."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from datasets import Array3D, Array4D, ClassLabel, Dataset, DatasetDict, Features, Image, List
from PIL import Image as Pillow

from hfgen.configs.training import ClipData, DataConfig
from hfgen.core.errors import HfgenError
from hfgen.core.video import has_pyav, save_clips
from hfgen.data.digits import embedded_digits
from hfgen.data.moving import FASTEST, SIZE, SLOWEST, bounce, moving_clip
from hfgen.data.training_set import load_training_set
from hfgen.evaluation.clips import centres, straightness


def load(kind=ClipData, channels=1, resolution=8, **flags):
    return load_training_set(
        kind(**flags), channels=channels, resolution=resolution, seed=0, accelerator=Accelerator(cpu=True)
    )


@pytest.fixture(scope="module")
def pixels():
    """12 grey clips of 3 frames of 8x8, no two frames alike."""
    return np.random.default_rng(0).integers(0, 256, (12, 3, 8, 8)).astype(np.uint8)


LABELS = Features({"label": ClassLabel(names=["slow", "fast"])})


def dataset(feature, values):
    columns = {"clip": values, "label": [i % 2 for i in range(len(values))]}
    return Dataset.from_dict(columns, features=Features({"clip": feature, **LABELS}))


def test_a_bounce_is_reflected_at_both_ends():
    """Steps of 2 in a room of 5, and of 1.5 in one of 3, by hand."""
    found = bounce(np.array([1.0, 2.0]), np.array([2.0, -1.5]), np.array([5.0, 3.0]), 6)
    assert found.T.tolist() == [[1, 3, 5, 3, 1, 1], [2, 0.5, 1, 2.5, 2, 0.5]]


def test_a_bounce_without_room_stays():
    assert bounce(np.zeros(2), np.ones(2), np.zeros(2), 4).tolist() == [[0, 0]] * 4


def test_a_moving_digit_keeps_its_ink_and_its_speed():
    digit = embedded_digits()["train"][4]["image"]
    clip = moving_clip(digit, 32, 16)
    assert clip.shape == (16, 1, 32, 32)
    down, right = (np.flatnonzero(clip[0, 0].any(axis)) for axis in (1, 0))
    assert max(np.ptp(down), np.ptp(right)) + 1 == round(32 * SIZE)
    sums = clip.reshape(16, -1).sum(1, dtype=np.int64)
    assert len(set(sums.tolist())) == 1  # whole pixels, and never beyond the edge
    error, speed = straightness(centres(torch.from_numpy(clip)[None]))
    assert error.item() < 2 * 0.5  # two coordinates, each rounded by 1/2 at most
    assert SLOWEST * 32 * 0.9 < speed.item() < FASTEST * 32 * 1.1


def test_a_motion_is_a_function_of_the_picture_and_longer_ones_go_on():
    first, second = (embedded_digits()["train"][i]["image"] for i in (0, 1))
    assert np.array_equal(moving_clip(first, 16, 8), moving_clip(first, 16, 8))
    assert np.array_equal(moving_clip(first, 16, 4), moving_clip(first, 16, 8)[:4])
    assert not np.array_equal(moving_clip(first, 16, 1), moving_clip(second, 16, 1))
    assert moving_clip(first.convert("RGB"), 16, 2).shape == (2, 3, 16, 16)
    assert moving_clip(Pillow.new("L", (8, 8)), 16, 2).max() == 0


def test_named_digits_move_and_image_trainers_take_the_first_frames():
    words = {"dataset_name": "moving:digits", "validation_split": "test", "max_train_samples": 20}
    clips = load(resolution=16, **words)
    assert clips.shape == (8, 1, 16, 16)
    assert (len(clips.train), len(clips.validation)) == (20, 297)
    assert clips.class_names == list("0123456789")
    assert (clips.origin.source, clips.origin.name) == ("digits", "moving:digits")
    assert any("pictures move" in line for line in clips.told)
    assert clips.train_companions.captions[0].startswith("a picture of ")
    images = load(DataConfig, resolution=16, **words)
    assert torch.equal(images.train.images, clips.train.images[:, 0])


@pytest.mark.parametrize(
    "kind", ["list of images", "array of 3", "array of 4", "array of 4, channels first", "folder", "folder of GIFs"]
)
def test_clips_are_what_they_were_made_of(kind, pixels, tmp_path):
    flags = {}
    if kind.startswith("array"):
        feature, values = {
            "array of 3": (Array3D((3, 8, 8), "uint8"), pixels),
            "array of 4": (Array4D((3, 8, 8, 1), "uint8"), pixels[..., None]),
            "array of 4, channels first": (Array4D((3, 1, 8, 8), "uint8"), pixels[:, :, None]),
        }[kind]
        flags["dataset"] = dataset(feature, values)
    elif kind == "list of images":
        dataset(List(Image()), [[Pillow.fromarray(frame) for frame in clip] for clip in pixels]).save_to_disk(
            str(tmp_path)
        )
        flags["dataset_name"] = str(tmp_path)
    elif kind == "folder":
        for i, clip in enumerate(pixels):
            (tmp_path / "train" / ("slow", "fast")[i % 2] / f"{i:02d}").mkdir(parents=True)
            for f, frame in enumerate(clip):
                Pillow.fromarray(frame).save(tmp_path / "train" / ("slow", "fast")[i % 2] / f"{i:02d}" / f"{f}.png")
        flags["dataset_name"] = f"clips:{tmp_path}"
    else:
        for i, clip in enumerate(pixels):
            first, *rest = map(Pillow.fromarray, clip)
            first.save(tmp_path / f"{i:02d}.gif", save_all=True, append_images=rest, loop=0)
        flags |= {"train_data_dir": str(tmp_path), "caption_column": None}
        (tmp_path / "metadata.csv").write_text(
            "file_name,text\n" + "".join(f"{i:02d}.gif,clip {i}\n" for i in range(12))
        )
        flags["caption_column"] = "text"
    images = load(**flags)
    assert images.shape == (3, 1, 8, 8)
    found = {clip.numpy().tobytes() for rows in (images.train, images.validation) for clip in rows.images}
    assert found == {clip.tobytes() for clip in pixels[:, :, None]}
    assert len(images.train_companions.captions) == len(images.train)
    if kind == "folder":
        assert images.class_names == ["fast", "slow"]
        assert images.origin.name == f"clips:{tmp_path.name}"


def test_fewer_frames_may_be_asked_for(pixels):
    images = load(dataset=dataset(Array3D((3, 8, 8), "uint8"), pixels), num_frames=2)
    assert images.shape == (2, 1, 8, 8)


def ragged(lengths):
    frames = [[Pillow.new("L", (8, 8), i)] * length for i, length in enumerate(lengths)]
    return dataset(List(Image()), frames)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"dataset": ragged([3] * 9 + [2] + [3] * 10)}, "has 2 frames, the first clip 3: pass --num_frames 2"),
        (
            {"dataset": ragged([3] * 20), "num_frames": 4},
            "row .* has 3 frames, of 4 that are wanted: leave this clip out, or train with --num_frames 3",
        ),
        ({"dataset": ragged([0] * 20), "num_frames": 2}, "has 0 frames"),
        ({"dataset_name": "digits"}, "is a single picture.*clips:FOLDER.*moving:NAME"),
        ({"dataset_name": "clips:nowhere"}, "there is no such folder"),
        (
            {"dataset": Dataset.from_dict({"text": ["a"] * 20, "label": [0, 1] * 10})},
            "no column of clips.*text \\(Value\\)",
        ),
    ],
)
def test_what_is_no_clip_is_told(flags, says):
    with pytest.raises(HfgenError, match=says):
        load(**flags)


def test_arrays_of_floats_are_told(pixels):
    with pytest.raises(HfgenError, match="holds float32: pass frames as uint8"):
        load(dataset=dataset(Array3D((3, 8, 8), "float32"), pixels.astype(np.float32)))


def test_a_folder_without_clips_is_told(tmp_path):
    Pillow.new("L", (8, 8)).save(tmp_path / "still.png")
    with pytest.raises(HfgenError, match="no folder in it holds 2 pictures or more"):
        load(dataset_name=f"clips:{tmp_path}")


@pytest.mark.skipif(has_pyav(), reason="PyAV is installed")
def test_without_a_decoder_a_video_is_told(tmp_path):
    for i in range(12):
        (tmp_path / f"{i}.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + bytes(16))
    rows = Dataset.from_dict({"video": [str(tmp_path / f"{i}.mp4") for i in range(12)], "label": [0, 1] * 6})
    from datasets import Video

    with pytest.raises(HfgenError, match="there is no decoder of such: pip install av, or make GIFs"):
        load(dataset=DatasetDict(train=rows.cast_column("video", Video())), label_column="label")


def test_animations(pixels, tmp_path):
    clips = torch.from_numpy(pixels)[:, :, None]
    save_clips(clips, tmp_path / "a.gif")
    with Pillow.open(tmp_path / "a.gif") as found:
        assert found.n_frames == 3
        assert found.info["duration"] == 120  # hundredths of a second are what a GIF has
    if not has_pyav():
        with pytest.raises(HfgenError, match="no encoder of MP4: pip install av, or name a file"):
            save_clips(clips, tmp_path / "a.mp4")
    with pytest.raises(HfgenError, match="GIF or MP4"):
        save_clips(clips, tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.gif"]
