"""`hfgen train-features`: a classifier of one's own classes, in the format that --features takes."""

import json

import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features
from datasets import Image as ImageFeature
from PIL import Image

from hfgen.cli.main import main
from hfgen.data.loading import ImagesInMemory
from hfgen.evaluation.networks import load_feature_network
from hfgen.evaluation.train_features import deformed

WORDS = ["train-features", "--steps", "30", "--batch_size", "16", "--learning_rate", "0.01"]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Colour images of two classes, stripes that lie and that stand, of random colours."""
    generator, images = torch.Generator().manual_seed(0), []
    for i in range(80):
        colours = torch.randint(0, 256, (2, 3), generator=generator).tolist()
        image = Image.new("RGB", (12, 12), tuple(colours[0]))
        for place in range(0, 12, 4):
            box = (0, place, 12, place + 2) if i % 2 else (place, 0, place + 2, 12)
            image.paste(tuple(colours[1]), box)
        images.append(image)
    features = Features({"image": ImageFeature(), "kind": ClassLabel(names=["standing", "lying"])})
    data = Dataset.from_dict({"image": images, "kind": [i % 2 for i in range(80)]}, features=features)
    folder = tmp_path_factory.mktemp("data") / "shapes"
    DatasetDict(train=data).save_to_disk(folder)
    return folder


@pytest.mark.slow
def test_a_classifier_of_ones_own_classes(shapes, tmp_path, capsys):
    out = tmp_path / "network"
    assert main([*WORDS, "--dataset_name", str(shapes), "--output_dir", str(out)]) == 0
    told = capsys.readouterr().out
    assert "64 features, 2 classes, 72 training images\naccuracy on 8 held-out images: " in told
    assert "(the most frequent class: 0.5000)" in told
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    network = load_feature_network(out)
    assert (network.name, network.channels, network.size) == ("network", 3, (24, 24))
    assert network.class_names == ["standing", "lying"]
    stripes = torch.zeros(2, 3, 12, 12, dtype=torch.uint8)
    for place in range(0, 12, 4):
        stripes[0, :, :, place : place + 2], stripes[1, :, place : place + 2] = 255, 255
    found = network(ImagesInMemory(stripes))
    assert found.probabilities.argmax(1).tolist() == [0, 1]
    assert found.features.shape == (2, 64)
    before = (out / "model.safetensors").read_bytes()
    assert main([*WORDS, "--dataset_name", str(shapes), "--output_dir", str(out)]) == 1
    assert "holds a classifier: name another, or pass --overwrite to replace it" in capsys.readouterr().err
    assert (out / "model.safetensors").read_bytes() == before
    assert main([*WORDS, "--dataset_name", str(shapes), "--output_dir", str(out), "--overwrite"]) == 0
    assert (out / "model.safetensors").read_bytes() == before  # the same flags make the same network


def test_the_shipped_classifier_is_of_its_format(shapes, tmp_path):
    """What the command writes for grey images of 28 pixels is what lies beside the code."""
    from hfgen.evaluation.networks import DIGITS_CLASSIFIER
    from hfgen.evaluation.train_features import new_classifier, preprocessing

    shipped = json.loads((DIGITS_CLASSIFIER / "preprocessor_config.json").read_text())
    assert preprocessing(1, 28) == shipped
    weights = load_feature_network().model.state_dict()
    made = new_classifier((1, 28), [str(i) for i in range(10)], seed=0, device=torch.device("cpu"), name="").model
    assert {k: v.shape for k, v in made.state_dict().items()} == {k: v.shape for k, v in weights.items()}


def test_images_without_classes_cannot_be_learned_from(tmp_path, capsys):
    data = Dataset.from_dict({"image": [Image.new("L", (8, 8))] * 20}, features=Features({"image": ImageFeature()}))
    data.save_to_disk(tmp_path / "plain")
    words = [*WORDS, "--dataset_name", str(tmp_path / "plain"), "--output_dir", str(tmp_path / "out")]
    assert main(words) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(
        "hfgen: error: train-features needs images of two classes or more: name their column with --label_column"
    )
    assert not (tmp_path / "out").exists()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("x")
    for flags in ([], ["--overwrite"]):
        assert main([*WORDS, "--dataset_name", "digits", "--output_dir", str(tmp_path / "mine"), *flags]) == 1
        assert "holds thesis.tex, no classifier of hfgen: name another" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_a_classifier_that_learned_nothing_is_not_kept(tmp_path, capsys):
    out = tmp_path / "features"
    words = ["train-features", "--dataset_name", "digits", "--output_dir", str(out), "--steps", "3"]
    assert main([*words, "--learning_rate", "1e9"]) == 1
    assert "learning_rate=1e+09: what the network makes of images is nan or inf" in capsys.readouterr().err
    assert not out.exists()
    file = tmp_path / "file"
    file.write_text("x")
    assert main([*words[:4], str(file / "features")]) == 1  # before the training, which takes a minute
    assert "no folder" in capsys.readouterr().err


def test_pictures_are_deformed_a_little_and_mirrored_if_asked():
    """A bright square left of the middle stays there; of mirrored ones half are on the right."""
    images = torch.zeros(200, 1, 32, 32, dtype=torch.uint8)
    images[..., 12:20, 4:10] = 255
    across = torch.arange(32) - 15.5

    def centres(flip):
        found = deformed(images, torch.Generator().manual_seed(0), flip=flip)
        assert found.shape == images.shape
        return (found.sum((1, 2)) * across).sum(1) / found.sum((1, 2, 3))

    plain, mirrored = centres(False), centres(True)
    # at -9; a tenth of stretch and of shear, 12 degrees, and 9 % of 32 pixels move it by 0.9 + 0.5 + 0.4 + 2.9 at most
    assert plain.max() < -4
    assert plain.std() > 0.3
    assert 60 < (mirrored > 4).sum() < 140
    torch.testing.assert_close(mirrored.abs(), plain.abs(), rtol=0, atol=1.5)
