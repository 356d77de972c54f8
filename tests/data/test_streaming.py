"""Images that are read as they are needed."""

import io
import os
import signal
import tarfile
from collections import Counter
from multiprocessing import active_children

import fsspec
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as Pillow

from hfgen.configs.evaluation import MeasuredData
from hfgen.configs.training import CaptionedData, ClipData, DataConfig, OptimizationConfig
from hfgen.core.errors import HfgenError
from hfgen.data.choice import choose_images
from hfgen.data.origin import origin_of_json
from hfgen.data.shuffling import Lane
from hfgen.data.stream_source import check_streaming, streamed_splits
from hfgen.data.training_set import load_training_set

FEATURES = Features({"image": Image(), "label": ClassLabel(names=["even", "odd"])})
ROWS = 120


def png(level):
    file = io.BytesIO()
    Pillow.fromarray(np.full((8, 8), level, np.uint8)).save(file, "PNG")
    return file.getvalue()


def rows_of(levels):
    return {"image": [{"bytes": png(i), "path": None} for i in levels], "label": [i % 2 for i in levels]}


def write_parquet(folder, shards, split="train", rows=range(ROWS), features=FEATURES):
    """Rows whose pixels are all their number, in shards of consecutive ones."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset = Dataset.from_dict(rows if isinstance(rows, dict) else rows_of(rows), features=features)
    for i in range(shards):
        dataset.shard(shards, i, contiguous=True).to_parquet(folder / f"{split}-{i:05}-of-{shards:05}.parquet")
    return str(folder)


def write_tar(folder, shards):
    folder.mkdir()
    for i in range(shards):
        with tarfile.open(folder / f"train-{i:04}.tar", "w") as tar:
            for level in range(ROWS * i // shards, ROWS * (i + 1) // shards):
                member = tarfile.TarInfo(f"{level:04}.png")
                member.size = len(png(level))
                tar.addfile(member, io.BytesIO(png(level)))
    return str(folder)


def load(place, **flags):
    flags = {"max_validation_samples": 15, "shuffle_buffer_size": 16, **flags}
    return load_training_set(
        DataConfig(dataset_name=place, streaming=True, **flags),
        channels=None,
        resolution=None,
        seed=0,
        accelerator=Accelerator(cpu=True),
    )


def levels(images):
    return images[:, 0, 0, 0].tolist()


def given(share, steps):
    """Pixels of each step, without worker processes."""
    lanes = [share.stream.lane(lane, share.lanes, share.states.get(lane)) for lane in share.own]
    return [levels(share.stream.segment(lanes, share.rows).images) for _ in range(steps)]


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    return write_parquet(tmp_path_factory.mktemp("parquet"), 10)


@pytest.fixture(scope="module")
def streamed(parquet):
    return load(parquet)


def test_the_first_rows_are_held_out_and_never_trained_on(streamed):
    assert levels(streamed.validation.images) == list(range(15))
    assert levels(streamed.train.images) == list(range(15, ROWS))
    share = streamed.stream.share(rows=16, num_processes=1, process_index=0)
    seen = Counter(n for step in given(share, 33) for n in step)
    assert set(seen) == set(range(15, ROWS))
    # five passes are 525 rows: a lane's buffer of 2 keeps back a row for some turns, and lanes take 9 shards in turn
    assert max(seen.values()) <= 8


@pytest.mark.parametrize("lanes", [1, 3])
def test_a_pass_has_every_row_once(streamed, lanes):
    """What lanes with a buffer of one row give is what they read, one row late."""
    shards = streamed.stream.shards
    for turn in range(2):
        parts = [Lane(shards, lane=lane, lanes=lanes, capacity=1, seed=3) for lane in range(lanes)]
        seen = []
        for lane in parts:
            lane.reading = (turn, 0, 0)
            while lane.reading[0] == turn:
                seen.append(next(lane))
            seen.pop()
        rows = [entry[:2] for entry in seen]
        assert len(set(rows)) == len(rows)
        assert len(rows) >= ROWS - 15 - lanes


def test_the_order_is_another_in_each_pass_and_of_each_seed(streamed):
    def first(seed, turn):
        lane = Lane(streamed.stream.shards, lane=0, lanes=1, capacity=8, seed=seed)
        lane.reading = (turn, 0, 0)
        return [next(lane).number for _ in range(20)]

    assert first(0, 0) == first(0, 0)
    assert len({tuple(first(seed, turn)) for seed in (0, 1) for turn in (0, 1)}) == 4


def test_workers_give_what_lanes_give_with_classes_and_state(streamed):
    whole = given(streamed.stream.share(rows=16, num_processes=1, process_index=0), 6)
    share = streamed.stream.share(rows=16, num_processes=1, process_index=0)
    taken = []
    for rows, raw, labels in share.micro_batches(3, 8):
        taken += levels(raw)
        assert labels.tolist() == [level % 2 for level in levels(raw)]
        assert len(set(rows.tolist())) == 8
    state = share.state_dict()
    share.close()
    assert taken == [n for step in whole[:3] for n in step]
    assert all(value.dtype == torch.int64 for value in state.values())

    other = streamed.stream.share(rows=16, num_processes=1, process_index=0)
    other.load_state_dict(state)
    assert given(other, 3) == whole[3:]


def test_two_processes_share_out_the_batch_of_one(streamed):
    whole = given(streamed.stream.share(rows=16, num_processes=1, process_index=0), 4)
    parts = [given(streamed.stream.share(rows=8, num_processes=2, process_index=i), 4) for i in range(2)]
    assert [one + other for one, other in zip(*parts, strict=True)] == whole


@pytest.mark.parametrize(
    ("rows", "processes", "lanes"), [(16, 1, 8), (8, 2, 8), (6, 1, 6), (7, 1, 7), (11, 1, 1), (16, 3, 6), (5, 9, 9)]
)
def test_lanes_divide_batch_and_processes(streamed, rows, processes, lanes):
    assert len(streamed.stream.shards.usable) == 9
    assert streamed.stream.lanes(rows, processes) == lanes


def test_more_processes_than_shards_are_refused(streamed):
    with pytest.raises(HfgenError, match=r"10 processes are more than the 9 shards .* start 9, or write"):
        streamed.stream.share(rows=16, num_processes=10, process_index=0)


def test_shards_of_a_tar_from_a_folder_and_of_any_storage(tmp_path, streamed):
    tar = load(write_tar(tmp_path / "tar", 4))
    assert (tar.train_labels, tar.class_names) == (None, [])
    assert levels(tar.train.images) == levels(streamed.train.images)

    memory = fsspec.filesystem("memory")
    memory.put(write_parquet(tmp_path / "data", 4) + "/", "/bucket/data/", recursive=True)
    memory.touch("/bucket/data/_SUCCESS")  # as Spark leaves beside its shards
    memory.pipe("/bucket/README.md", b"# Pictures")
    for place in ("memory://bucket", "memory://bucket/data/train-*.parquet"):
        stored = load(place)
        assert stored.origin.name == place
        lane = stored.stream.lane(0, 1, None)
        assert set(levels(stored.stream.segment([lane], 200).images)) == set(range(15, ROWS))


def test_a_named_split_is_held_out_and_an_only_file_read_by_row_groups(tmp_path):
    write_parquet(tmp_path, 1, "validation", range(200, 230))
    dataset = Dataset.from_dict(rows_of(range(ROWS)), features=FEATURES)
    dataset.to_parquet(tmp_path / "train-00000-of-00001.parquet", batch_size=12)
    images = load(str(tmp_path), validation_split="validation")
    assert levels(images.validation.images) == list(range(200, 215))
    assert levels(images.train.images) == list(range(ROWS))
    assert images.held_out == "the first 15 images of split 'validation'"
    assert len(images.stream.shards.usable) == 10
    lane = images.stream.lane(0, 1, None)
    images.stream.segment([lane], 20)
    assert images.stream.shards.place(9).startswith("row group 9 of shard ")
    assert images.stream.shards.place(9).endswith("train-00000-of-00001.parquet")


def test_the_training_split_named_for_validation_is_held_out_from(parquet):
    images = load(parquet, validation_split="train")
    assert images.held_out == "the first 15 images of 'train'"
    assert set(given(images.stream.share(rows=105, num_processes=1, process_index=0), 1)[0]) <= set(range(15, ROWS))


def test_datasets_from_python_and_the_digits(parquet):
    dataset = Dataset.from_parquet(f"{parquet}/*.parquet")
    for one in (dataset, dataset.to_iterable_dataset(num_shards=5)):
        images = load("none", dataset=one)
        assert levels(images.train.images) == list(range(15, ROWS))
    assert load("digits", validation_split="test").resolution == 8


def test_later_images_are_made_as_the_first_are(tmp_path):
    """The first 1,000 here are grey and 8x8: one of 12x10 in colour after them becomes that too."""
    wide = io.BytesIO()
    Pillow.new("RGB", (12, 10), (255, 0, 0)).save(wide, "PNG")
    rows = {"image": [{"bytes": b, "path": None} for b in [png(1)] * 20 + [wide.getvalue()]]}
    dataset = Dataset.from_dict(rows, features=Features({"image": Image()}))
    images = load("none", dataset=dataset, max_validation_samples=2, center_crop=True)
    assert images.shape == (3, 8, 8)
    grey = load_training_set(
        DataConfig(dataset=dataset, streaming=True, max_validation_samples=2, shuffle_buffer_size=4),
        channels=1,
        resolution=8,
        seed=0,
        accelerator=Accelerator(cpu=True),
    )
    lane = grey.stream.lane(0, 1, None)
    assert set(levels(grey.stream.segment([lane], 60).images)) == {1, 76}
    assert any("only the first were looked at" in line for line in grey.told)


def test_evaluation_finds_the_held_out_images_without_the_rest(parquet, streamed, tmp_path, monkeypatch):
    origin = origin_of_json(streamed.origin.to_json(), "there")
    assert origin == streamed.origin
    monkeypatch.setattr("hfgen.data.choice._records", lambda _: [recorded])
    from hfgen.data.choice import Recorded

    recorded = Recorded(dataset=None, origin=origin, place={"dataset_name": parquet})
    choice = choose_images(MeasuredData(), {"model": tmp_path})
    assert levels(choice.held_out.load((1, 8, 8), torch.device("cpu")).images.images) == list(range(15))
    assert len(choice.source["train"]) == ROWS
    assert choice.training(None).dataset.num_rows == ROWS - 15


@pytest.mark.parametrize(
    ("flags", "steps", "words"),
    [
        ({}, None, "has no length that --num_epochs could count: pass --max_train_steps"),
        ({"max_train_samples": 9}, 5, "max_train_samples=9: they are drawn from all images"),
        ({"dataset_name": "moving:digits"}, 5, "clips are not streamed"),
    ],
)
def test_flags_that_need_a_length(flags, steps, words):
    with pytest.raises(HfgenError, match=words):
        check_streaming(DataConfig(streaming=True, **flags), OptimizationConfig(max_train_steps=steps))


@pytest.mark.parametrize("kind", [CaptionedData, ClipData])
def test_captions_and_clips_are_not_streamed(kind):
    with pytest.raises(HfgenError, match="looks at all captions or clips"):
        check_streaming(kind(streaming=True), OptimizationConfig(max_train_steps=5))


def test_flags_of_streams_without_one():
    with pytest.raises(HfgenError, match="max_validation_samples=3: only with --streaming"):
        check_streaming(DataConfig(max_validation_samples=3), OptimizationConfig())


def test_bad_sources(tmp_path, parquet):
    numbers = write_parquet(tmp_path / "numbers", 1, features=Features({"image": Image(), "label": Value("int64")}))
    for place, flags, words in (
        (parquet, {"max_validation_samples": 500}, "no more than 120 images, all of which would be held out"),
        (parquet, {"train_split": "none"}, "split 'none' is not in the dataset: it has train"),
        (numbers, {"label_column": "label"}, "does not name its classes"),
        ("memory://empty", {}, "'memory://empty' has no shards to read"),
    ):
        with pytest.raises(HfgenError, match=words):
            load(place, **flags)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        (
            "image",
            {"bytes": b"no image", "path": None},
            "row 13 of shard .*train-00001-of-00002.parquet of image column .* unreadable",
        ),
        ("label", None, "label_column='label' has no class in row 13 of shard .*train-00001-of-00002.parquet"),
        ("label", -1, "label_column='label' has no class in row 13 of shard .*train-00001-of-00002.parquet"),
    ],
)
def test_later_rows_that_cannot_be_read_are_named(tmp_path, monkeypatch, column, value, words):
    monkeypatch.setattr("hfgen.data.stream_source.LOOKED_AT", 5)
    rows = rows_of(range(40))
    rows[column][33] = value
    images = load(write_parquet(tmp_path, 2, rows=rows), max_validation_samples=2)
    assert len(images.train) == 5
    lane = images.stream.lane(0, 1, None)
    with pytest.raises(HfgenError, match=words):
        images.stream.segment([lane], 60)


def test_a_damaged_shard_is_named(tmp_path):
    shards = streamed_splits(
        DataConfig(dataset_name=write_parquet(tmp_path, 2), streaming=True, max_validation_samples=2)
    )[1]
    (tmp_path / "train-00001-of-00002.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(HfgenError, match=r"shard .*train-00001-of-00002.parquet cannot be read after row -1 .*latest"):
        list(shards.read(shards.count - 1))


def test_a_worker_that_is_killed(streamed):
    share = streamed.stream.share(rows=16, num_processes=1, process_index=0)
    before = set(active_children())
    batches = share.micro_batches(1000, 16)
    next(batches)
    os.kill(min({child.pid for child in set(active_children()) - before}), signal.SIGKILL)
    with pytest.raises(
        HfgenError, match=r"a process that decodes images .* go on with --resume_from_checkpoint latest"
    ):
        for _ in batches:
            pass
