"""Sources of images: where they are found, how they are split, and what is said when they are not there."""

import numpy as np
import PIL.Image
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value

from hfgen.core.errors import HfgenError
from hfgen.data.sources import choose_splits, find_image_column, find_label_column, load_source

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
    with pytest.raises(HfgenError, match="train_data_dir='no-folder' is no folder"):
        load_source("ignored", train_data_dir="no-folder")


def test_held_out_split_by_name():
    source = DatasetDict(train=rows(20), test=rows(5))
    train, held_out, says = choose_splits(source, "train", "test", label_column="label", seed=0)
    assert (len(train), len(held_out), says) == (20, 5, "the split 'test'")


@pytest.mark.parametrize(("count", "expected"), [(10, 1), (99, 9), (20_000, 2000), (30_000, 2000)])
def test_a_tenth_is_held_out_up_to_2000(count, expected):
    train, held_out, says = choose_splits(DatasetDict(train=rows(count)), "train", None, label_column=None, seed=0)
    assert len(held_out) == expected
    assert says == f"{expected} images taken from 'train'"
    assert sorted([*train["id"], *held_out["id"]]) == list(range(count))  # disjoint, and nothing is lost


def test_a_missing_split_is_replaced_and_said():
    _, held_out, says = choose_splits(DatasetDict(train=rows(50)), "train", "valid", label_column=None, seed=0)
    assert len(held_out) == 5
    assert says == "5 images taken from 'train' (there is no split 'valid')"


def test_held_out_images_are_a_function_of_the_seed():
    source = DatasetDict(train=rows(200))
    first, again, other = (
        choose_splits(source, "train", None, label_column=None, seed=seed)[1]["id"] for seed in (1, 1, 2)
    )
    assert list(first) == list(again)
    assert set(first) != set(other)


def test_held_out_classes_are_in_proportion():
    labels = [0] * 700 + [1] * 200 + [2] * 100
    source = DatasetDict(train=rows(1000, labels))
    for seed in range(3):
        _, held_out, _ = choose_splits(source, "train", None, label_column="label", seed=seed)
        assert np.bincount(held_out["label"]).tolist() == [70, 20, 10]


def test_a_class_of_one_image_does_not_stop_the_split():
    source = DatasetDict(train=rows(50, [0] * 49 + [1]))
    train, held_out, _ = choose_splits(source, "train", None, label_column="label", seed=0)
    assert sorted([*train["id"], *held_out["id"]]) == list(range(50))


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
