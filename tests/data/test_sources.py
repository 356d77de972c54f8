"""Sources of images: where they are found, how they are split, and what is said when they are not there."""

import io
import tarfile
from collections import Counter

import numpy as np
import PIL.Image
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value

from hfgen.core.errors import HfgenError
from hfgen.data.decode import open_image, undecoded
from hfgen.data.labels import class_labels, class_names, find_label_column
from hfgen.data.sources import choose_splits, find_image_column, load_source

FEATURES = Features({"id": Value("int64"), "picture": Image(), "digit": ClassLabel(num_classes=3)})


def pictures(count, first=0):
    """Row i is a 4x4 picture of the grey level i, of class i mod 3."""
    ids = range(first, first + count)
    return Dataset.from_dict(
        {"id": ids, "picture": [np.full((4, 4), i, np.uint8) for i in ids], "digit": [i % 3 for i in ids]},
        features=FEATURES,
    )


def rows(count, labels=None):
    """Rows without images, for splitting."""
    labels = [0] * count if labels is None else labels
    classes = ClassLabel(num_classes=max(labels, default=0) + 1)
    return Dataset.from_dict(
        {"id": range(count), "label": labels}, features=Features({"id": Value("int64"), "label": classes})
    )


def grey_levels(dataset):
    return [np.asarray(image)[0, 0].item() for image in dataset["picture"]]


def test_local_folder_in_the_layout_of_the_hub(tmp_path):
    (tmp_path / "repository" / "data").mkdir(parents=True)
    pictures(5).to_parquet(tmp_path / "repository" / "data" / "train-00000-of-00001.parquet")
    pictures(2, first=5).to_parquet(tmp_path / "repository" / "data" / "test-00000-of-00001.parquet")
    source = load_source(str(tmp_path / "repository"), cache_dir=str(tmp_path / "cache"))
    assert set(source) == {"train", "test"}
    assert source["train"].features == FEATURES
    assert grey_levels(source["train"]) == [0, 1, 2, 3, 4]
    assert grey_levels(source["test"]) == [5, 6]


def test_configuration_of_a_repository(tmp_path):
    repository = tmp_path / "repository"
    repository.mkdir()
    for name, first in (("low", 0), ("high", 200)):
        pictures(2, first).to_parquet(repository / f"{name}.parquet")
    configs = "".join(f"- config_name: {name}\n  data_files: {name}.parquet\n" for name in ("low", "high"))
    (repository / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    source = load_source(str(repository), dataset_config_name="high", cache_dir=str(tmp_path / "cache"))
    assert grey_levels(source["train"]) == [200, 201]


def test_folder_from_save_to_disk(tmp_path):
    DatasetDict(train=pictures(3), test=pictures(1, first=3)).save_to_disk(str(tmp_path))
    source = load_source(str(tmp_path))
    assert grey_levels(source["train"]) == [0, 1, 2]
    assert grey_levels(source["test"]) == [3]


def test_folder_of_image_files(tmp_path):
    for name, level in (("cat", 10), ("dog", 20)):
        (tmp_path / "images" / name).mkdir(parents=True)
        PIL.Image.new("L", (4, 4), level).save(tmp_path / "images" / name / "0.png")
    source = load_source("ignored", train_data_dir=str(tmp_path / "images"), cache_dir=str(tmp_path / "cache"))
    train = source["train"]
    levels = {
        train.features["label"].int2str(row["label"]): row["image"].convert("L").getpixel((0, 0)) for row in train
    }
    assert levels == {"cat": 10, "dog": 20}


def test_unknown_source_without_a_network(offline):
    with pytest.raises(
        HfgenError, match=r"dataset 'no-such/dataset' cannot be loaded .* --dataset_name digits"
    ) as error:
        load_source("no-such/dataset")
    assert "\n" not in str(error.value)


def test_folder_without_images(tmp_path):
    with pytest.raises(HfgenError, match=f"dataset '{tmp_path}' cannot be loaded"):
        load_source("ignored", train_data_dir=str(tmp_path))
    with pytest.raises(HfgenError, match="train_data_dir='no-folder' is no folder or file"):
        load_source("ignored", train_data_dir="no-folder")


def test_held_out_split_by_name():
    source = DatasetDict(train=rows(20), test=rows(5))
    splits = choose_splits(source, "train", "test", label_column="label", seed=0)
    assert (len(splits.train), len(splits.validation), splits.held_out) == (20, 5, "the split 'test'")
    assert (splits.held_out_split, splits.rows) == ("test", None)


@pytest.mark.parametrize(("count", "expected"), [(10, 1), (99, 9), (20_000, 2000), (30_000, 2000)])
def test_a_tenth_is_held_out_up_to_2000(count, expected):
    splits = choose_splits(DatasetDict(train=rows(count)), "train", None, label_column=None, seed=0)
    assert len(splits.validation) == expected
    assert splits.held_out == f"{expected:,} taken from 'train'"
    assert (list(splits.rows), list(splits.train_rows)) == (splits.validation["id"][:], splits.train["id"][:])
    assert sorted([*splits.rows, *splits.train_rows]) == list(range(count))  # disjoint, and nothing is lost


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("shuffled", [False, True])
def test_rows_are_known_by_their_numbers(shuffled, seed):
    """Also of a dataset that is a selection itself, and of a single row, which `datasets` cuts out without a list of numbers."""
    train = rows(12).shuffle(seed=seed) if shuffled else rows(12)
    splits = choose_splits(DatasetDict(train=train), "train", None, label_column=None, seed=seed)
    for part, numbers in ((splits.validation, splits.rows), (splits.train, splits.train_rows)):
        assert part["id"][:] == train.select(numbers)["id"][:]


def test_a_missing_split_is_replaced_and_said():
    splits = choose_splits(DatasetDict(train=rows(50)), "train", "valid", label_column=None, seed=0)
    assert len(splits.validation) == 5
    assert splits.held_out == "5 taken from 'train' (there is no split 'valid')"


def test_the_training_split_is_not_held_out_whole():
    """Else a model would be measured on what it was trained on."""
    splits = choose_splits(DatasetDict(train=rows(50)), "train", "train", label_column=None, seed=0)
    assert splits.held_out == "5 taken from 'train'"
    assert not set(splits.rows) & set(splits.train_rows)
    assert len(splits.train) == 45


def test_held_out_images_are_a_function_of_the_seed():
    source = DatasetDict(train=rows(200))
    first, again, other = (
        choose_splits(source, "train", None, label_column=None, seed=seed).validation["id"] for seed in (1, 1, 2)
    )
    assert list(first) == list(again)
    assert set(first) != set(other)


def test_held_out_classes_are_in_proportion():
    labels = [0] * 700 + [1] * 200 + [2] * 100
    source = DatasetDict(train=rows(1000, labels))
    for seed in range(3):
        splits = choose_splits(source, "train", None, label_column="label", seed=seed)
        assert np.bincount(splits.validation["label"]).tolist() == [70, 20, 10]
        assert list(splits.rows) == splits.validation["id"][:]


def test_a_class_of_one_image_does_not_stop_the_split():
    source = DatasetDict(train=rows(50, [0] * 49 + [1]))
    splits = choose_splits(source, "train", None, label_column="label", seed=0)
    assert sorted([*splits.train["id"], *splits.validation["id"]]) == list(range(50))


@pytest.mark.parametrize(
    ("source", "names", "message"),
    [
        (DatasetDict(train=rows(20), test=rows(5)), ("training", None), "train_split='training' .* has train, test"),
        (DatasetDict(train=rows(0)), ("train", None), "split 'train' is empty"),
        (DatasetDict(train=rows(20), test=rows(0)), ("train", "test"), "split 'test' is empty"),
        (DatasetDict(train=rows(9)), ("train", None), "'train' has 9 images: too few to hold some out"),
    ],
)
def test_splits_that_cannot_be_used(source, names, message):
    with pytest.raises(HfgenError, match=message):
        choose_splits(source, *names, label_column=None, seed=0)


def test_image_column():
    dataset = pictures(1).add_column("note", ["text"])
    assert find_image_column(dataset, None) == "picture"
    assert find_image_column(dataset, "picture") == "picture"
    with pytest.raises(HfgenError, match=r"'image' is not in the dataset; .* picture \(Image\), digit \(ClassLabel\)"):
        find_image_column(dataset, "image")
    with pytest.raises(HfgenError, match=r"'note' holds no images; .* note \(Value\)"):
        find_image_column(dataset, "note")
    with pytest.raises(HfgenError, match=r"no image column; .* id \(Value\), digit \(ClassLabel\), note"):
        find_image_column(dataset.remove_columns("picture"), None)


def test_label_column():
    dataset = pictures(1)
    assert find_label_column(dataset, None) == "digit"
    assert find_label_column(dataset, "id") == "id"
    assert find_label_column(dataset.remove_columns("digit"), None) is None
    with pytest.raises(
        HfgenError, match="label_column='label' is not in the dataset; its columns are id, picture, digit"
    ):
        find_label_column(dataset, "label")


def tar_of(path, pictures):
    """A WebDataset shard: PNG files, and classes as text."""
    with tarfile.open(path, "w") as shard:
        for i, level in enumerate(pictures):
            buffer = io.BytesIO()
            PIL.Image.new("L", (4, 4), level).save(buffer, "PNG")
            for ending, data in (("png", buffer.getvalue()), ("cls", str(i % 3).encode())):
                member = tarfile.TarInfo(f"{i:03}.{ending}")
                member.size = len(data)
                shard.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("flag", ["dataset_name", "train_data_dir"])
@pytest.mark.parametrize("layout", ["images", "parquet", "file", "disk", "shards", "shard"])
def test_both_flags_take_what_datasets_reads(layout, flag, tmp_path):
    place, cache = tmp_path / "data", str(tmp_path / "cache")
    place.mkdir()
    column = "picture"
    if layout == "images":
        column = "image"
        for i in range(3):
            PIL.Image.new("L", (4, 4), i).save(place / f"{i}.png")
    elif layout in ("parquet", "file"):
        pictures(3).to_parquet(place / "train.parquet")
        PIL.Image.new("L", (4, 4)).save(place / "preview.png")  # an ornament
        place = place / "train.parquet" if layout == "file" else place
    elif layout == "disk":
        pictures(3).save_to_disk(str(place))
    else:
        column = "png"
        tar_of(place / "train-0000.tar", range(3))
        place = place / "train-0000.tar" if layout == "shard" else place
    named = {"dataset_name": None, flag: str(place)}
    train = load_source(**named, cache_dir=cache)["train"]
    assert find_image_column(train, None) == column
    assert [np.asarray(image.convert("L"))[0, 0] for image in train[column]] == [0, 1, 2]
    if column == "png":
        assert class_labels(train, "cls", class_names(train, "cls")).tolist() == [0, 1, 2]


def test_metadata_beside_image_files(tmp_path):
    for i in range(4):
        PIL.Image.new("L", (4, 4), i).save(tmp_path / f"{i}.png")
    (tmp_path / "metadata.csv").write_text("file_name,kind\n0.png,dog\n1.png,cat\n2.png,dog\n3.png,eel\n")
    train = load_source(None, train_data_dir=str(tmp_path), cache_dir=str(tmp_path.parent / "cache"))["train"]
    names = class_names(train, "kind")
    assert names == ["cat", "dog", "eel"]
    assert class_labels(train, "kind", names).tolist() == [1, 0, 1, 2]


def test_classes_of_strings_are_held_out_in_proportion():
    labels = ["ant"] * 70 + ["bee"] * 20 + ["cat"] * 10
    source = DatasetDict(train=Dataset.from_dict({"id": range(100), "kind": labels}))
    splits = choose_splits(source, "train", None, label_column="kind", seed=0)
    assert Counter(splits.validation["kind"]) == {"ant": 7, "bee": 2, "cat": 1}
    assert (list(splits.rows), list(splits.train_rows)) == (splits.validation["id"][:], splits.train["id"][:])
    assert sorted([*splits.rows, *splits.train_rows]) == list(range(100))


def test_columns_of_encoded_images_that_nobody_called_so():
    files = pictures(2).cast_column("picture", Image(decode=False))["picture"][:]
    plain = Dataset.from_dict({"data": [file["bytes"] for file in files], "parts": files})
    with pytest.raises(HfgenError, match="no image column"):
        find_image_column(plain, None)
    for column in ("data", "parts"):
        assert find_image_column(plain, column) == column
        shown = undecoded(plain, column)[1][column]
        assert np.asarray(open_image(shown, "1"))[0, 0] == 1


def test_no_source_at_all():
    with pytest.raises(HfgenError, match="no images are named"):
        load_source(None)
