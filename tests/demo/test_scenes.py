"""What the demo page shows, without the page."""

import base64
import io
import shutil
from statistics import NormalDist

import numpy as np
import pytest
import torch
from PIL import Image

import hfgen
from hfgen.core.errors import HfgenError
from hfgen.core.media import image_grid
from hfgen.results import EvaluationResult


@pytest.fixture(scope="module")
def shelf(demo):
    return demo("shelf")


@pytest.fixture(scope="module")
def scenes(demo):
    return demo("scenes")


def test_models_lie_beside_the_page_or_in_the_clone_around_it(shelf, space, repository):
    names = [path.rsplit("/", 1)[1] for path in shelf.places(space)]
    assert names == ["plane", "room", "steps", "words"]
    shipped = {path.parent.name for path in (repository / "model_cards").glob("*/model_index.json")}
    assert {path.rsplit("/", 1)[1] for path in shelf.places(repository / "demo")} == shipped


def test_the_card_names_repositories(shelf, space, tmp_path):
    card = (space / "README.md").read_text().replace("\nlicense:", "\nmodels:\n  - alice/a\n  - bob/b\nlicense:")
    (tmp_path / "README.md").write_text(card)
    assert shelf.places(tmp_path) == ["alice/a", "bob/b"]


def test_a_model_that_cannot_be_loaded_is_told_and_left_out(shelf, space, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(space / "model_cards" / "room", broken)
    next(broken.glob("vae/*.safetensors")).unlink()
    assert list(shelf.load_all([str(broken), str(space / "model_cards" / "room")])) == ["room"]
    assert "left out: " in (told := capsys.readouterr().err)
    assert str(broken) in told


def test_each_tab_has_the_models_that_can_do_it(shelf, models):
    assert list(shelf.drawing(models)) == ["plane", "room", "steps"]
    assert list(shelf.of_words(models)) == ["words"]
    assert list(shelf.planes(models)) == ["plane"]


def test_images_and_clips_of_words_are_for_the_words_tab(shelf, repository):
    shipped = shelf.load_all([str(repository / "model_cards" / name) for name in ("sd-mnist", "video-mnist")])
    assert list(shelf.of_words(shipped)) == ["sd-mnist", "video-mnist"]
    assert not shelf.drawing(shipped)


def same(one, other):
    return np.array_equal(np.asarray(one), np.asarray(other))


def test_the_moments_end_with_what_the_library_draws(scenes, models):
    shown = list(scenes.moments(models["steps"], scenes.Wish(count=4, seed=3, steps=5)))
    samples = hfgen.sample(models["steps"], num_images=4, seed=3, steps=5, trajectory=True)
    assert len(shown) == 6  # after each step, and the samples
    for picture, images in zip(shown, [*samples.trajectory[:-1], None, samples.images], strict=True):
        assert images is None or same(picture, image_grid(images, 2, scale=560 // 16))


def test_one_picture_of_a_model_without_steps(scenes, models):
    (shown,) = scenes.moments(models["room"], scenes.Wish(count=1, seed=1))
    assert same(shown, image_grid(hfgen.sample(models["room"], num_images=1, seed=1).images, 1, scale=70))
    assert scenes.has_steps(models["steps"])
    assert not scenes.has_steps(models["room"])


def test_guidance_is_for_models_of_classes_that_take_it(shelf, scenes, repository):
    names = ("ddpm-mnist", "ddpm-mnist-classes", "gan-mnist")
    shipped = shelf.load_all([str(repository / "model_cards" / name) for name in names])
    assert [scenes.takes_guidance(shipped[name]) for name in names] == [False, True, False]
    assert scenes.class_names(shipped["gan-mnist"]) == [str(i) for i in range(10)]


def test_words_are_drawn(scenes, models):
    wish = scenes.Wish(count=1, steps=2, guidance_scale=2.0, prompt="a handwritten seven")
    assert len(list(scenes.moments(models["words"], wish))) == 3
    assert scenes.example_prompt(models["words"]) == "a picture"


@pytest.mark.parametrize(("name", "wish"), [("steps", {"steps": 26}), ("words", {}), ("room", {"seed": -1})])
def test_what_a_model_cannot_do_is_told(scenes, models, name, wish):
    with pytest.raises(HfgenError):
        list(scenes.moments(models[name], scenes.Wish(count=1, **wish)))


def test_points_of_the_map_are_quantiles(scenes):
    z = scenes.latents(torch.tensor([0.5, 0.975, 0.0]), torch.tensor([0.5, 0.2, 1.0]))
    normal = NormalDist()
    wanted = [[0, 0], [normal.inv_cdf(0.975), normal.inv_cdf(0.8)], [normal.inv_cdf(0.001)] * 2]
    assert torch.allclose(z, torch.tensor(wanted), atol=1e-5)  # float32 shares


def test_the_map_is_the_pipelines_manifold(scenes, models):
    model = models["plane"]
    whole = np.asarray(scenes.plane_map(model), dtype=int)
    assert whole.shape == (160, 160)
    for place, cell in enumerate(model.pipeline.manifold(20).images):
        row, column = divmod(place, 20)
        own = whole[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        assert np.abs(own - np.asarray(cell, dtype=int)).max() <= 1  # quantiles of float32 shares, rounded pixels


def test_a_point_is_decoded_where_it_lies(scenes, models):
    model = models["plane"]
    image, z = scenes.at_point(model, 0.9, 0.3)
    wanted = [NormalDist().inv_cdf(0.9), NormalDist().inv_cdf(0.7)]
    assert z == pytest.approx(wanted, abs=1e-5)
    (decoded,) = model.pipeline(latents=torch.tensor([wanted])).images
    shown = np.asarray(decoded.resize(image.size, Image.Resampling.BICUBIC), dtype=int)
    assert np.abs(shown - np.asarray(image, dtype=int)).max() <= 2
    url = scenes.data_url(image)
    assert same(Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,")))), image)


def test_results_are_told_with_the_terms_that_there_are(scenes, models, repository):
    assert scenes.results_of(models["plane"]) is None
    result = EvaluationResult.load(repository / "model_cards" / "ddpm-mnist" / "results.json")
    line, rows = scenes.measured(result)
    bound = result.headline("bound", "bits/dim")
    assert {"name": bound.name, "value": bound.text()} in rows
    assert scenes.NO_TERMS not in line
    each, added = scenes.terms(result)
    assert each.size == added.size == (648, 504)
    assert not same(each, added)
    result = EvaluationResult.load(repository / "model_cards" / "vae-mnist-2d" / "results.json")
    assert not scenes.has_terms(result)
    assert scenes.measured(result)[0].endswith(scenes.NO_TERMS)
