"""Evaluation images, reports that name what was measured, and figures."""

import json
import math

import pytest
import torch
from drawing import model_of
from flat import flat
from PIL import Image

from hfgen.core.errors import HfgenError
from hfgen.core.files import check_writable, write_json
from hfgen.data.evaluation_images import load_evaluation_images
from hfgen.data.subset import draw_rows
from hfgen.families.vae.figures import save_vae_figures
from hfgen.library import evaluate
from hfgen.models import MLPVAE
from hfgen.pipelines import VAEPipeline
from hfgen.trainer.curves import save_curves

CPU = torch.device("cpu")


def vae(likelihood="discretized_logistic", latent_size=2):
    torch.manual_seed(0)
    return MLPVAE(1, 8, latent_size, (8,), likelihood=likelihood).eval()


def measured(model, num_samples, max_images):
    pipeline = model_of(VAEPipeline(model))
    return evaluate(pipeline, dataset_name="digits", iw_samples=num_samples, max_images=max_images)


@pytest.fixture(scope="module")
def digits():
    return load_evaluation_images("digits", "test", shape=(1, 8, 8), device=CPU)


def test_images_and_labels_are_of_the_same_rows(digits):
    from hfgen.data.digits import embedded_digits

    source = embedded_digits()["test"]
    assert digits.labels.tolist() == source["label"][:]
    assert len(digits.images) == 297
    assert digits.class_names == [str(i) for i in range(10)]
    assert digits.images.images[5, 0].tolist() == torch.tensor(list(source[5]["image"].getdata())).view(8, 8).tolist()


def test_fewer_images_are_of_all_classes(digits):
    few = load_evaluation_images("digits", "test", shape=(1, 8, 8), device=CPU, max_images=20)
    assert few.labels.bincount().tolist() == [2] * 10
    rows = draw_rows(20, 297, digits.labels, seed=0)
    assert torch.equal(few.images.images, digits.images.images[rows])
    assert torch.equal(few.labels, digits.labels[rows])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("digits", "tset", (1, 8, 8)), "^split 'tset' is not in 'digits': it has train, test$"),
        (
            ("digits", "test", (1, 28, 28)),
            r"^the images are 1x8x8 \(channels x height x width\), the model's 1x28x28: ",
        ),
        (("digits", "test", (3, 8, 8)), r"^the images are 1x8x8 .* the model's 3x8x8"),
    ],
)
def test_images_that_do_not_fit(arguments, message):
    with pytest.raises(HfgenError, match=message):
        load_evaluation_images(*arguments[:2], shape=arguments[2], device=CPU)


def test_report_of_an_8_bit_likelihood_is_in_bits_per_dim_too():
    result = measured(vae(), num_samples=3, max_images=20)
    results = flat(result)
    metrics = results["metrics"]
    for key in ("negative_elbo", "negative_iw_bound"):
        in_bits = metrics[key]["mean"] / (64 * math.log(2))
        assert metrics[f"{key}_bits_per_dim"]["mean"] == pytest.approx(in_bits, rel=1e-12)
        assert metrics[f"{key}_bits_per_dim"]["unit"] == "bits/dim"
    assert metrics["negative_elbo"]["mean"] == pytest.approx(metrics["reconstruction"]["mean"] + metrics["kl"]["mean"])
    assert results["images"] == 20
    assert "upper bound on the NLL" in result.table()
    json.dumps(results)


@pytest.mark.parametrize(
    ("likelihood", "kind"), [("bernoulli_grey", "pseudo-log-likelihood"), ("gaussian", "log-density")]
)
def test_what_is_no_likelihood_is_never_called_an_nll(likelihood, kind):
    result = measured(vae(likelihood), num_samples=3, max_images=20)
    text = result.table() + json.dumps(result.to_json())
    assert "NLL" not in text.replace("not an NLL", "")
    assert "bits" not in text.replace("8-bit", "")
    assert f"of a {kind}: not an NLL" in text


def test_binarised_pixels_are_not_compared_in_bits_of_8_bit_pixels():
    results = flat(measured(vae("bernoulli"), num_samples=3, max_images=20))
    assert not [key for key in results["metrics"] if "bits" in key]


@pytest.mark.slow
@pytest.mark.parametrize("latent_size", [1, 2, 3])
def test_figures(digits, tmp_path, latent_size):
    (tmp_path / "history.jsonl").write_text(
        '{"step": 1, "train_loss": 3.0, "train_reconstruction": 2.0, "train_kl": 1.0}\n'
        '{"step": 1, "validation_loss": 3.0, "validation_reconstruction": 2.0, "validation_kl": 1.0, "epoch": 1}\n'
    )
    out = tmp_path / "out"
    out.mkdir()
    written = [
        *save_vae_figures(VAEPipeline(vae(latent_size=latent_size)), digits, out, seed=0),
        *save_curves(tmp_path, out),
    ]
    names = {path.name for path in written}
    expected = {"samples.png", "reconstructions.png", "latents.png", "interpolations.png", "loss.png"}
    assert names == expected | ({"manifold.png"} if latent_size == 2 else set())
    assert {path.name for path in out.iterdir()} == names
    for path in written:
        with Image.open(path) as image:
            assert min(image.size) > 200, path.name
            assert len(set(image.convert("L").getdata())) > 10, path.name


def test_pairs_show_each_image_above_its_reconstruction(digits, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        "hfgen.families.vae.figures.image_grid", lambda images, *a: drawn.setdefault(len(drawn), images)
    )
    monkeypatch.setattr("hfgen.families.vae.figures.save_png", lambda image, path: None)
    pipeline = VAEPipeline(vae())
    save_vae_figures(pipeline, digits, tmp_path, seed=0)
    pairs = drawn[1].view(4, 2, 10, 1, 8, 8)
    shown = digits.images.images[digits.some(40)]
    assert torch.equal(pairs[:, 0].flatten(0, 1), shown)
    again = pipeline.reconstruct(shown, output_type="pt").images
    # to the nearest of 256 levels
    torch.testing.assert_close(pairs[:, 1].flatten(0, 1).float() / 255, again, rtol=0, atol=0.5 / 255 + 1e-6)


def test_results_that_cannot_be_written_are_told_before_the_work(tmp_path):
    with pytest.raises(HfgenError, match="is a folder: name a file"):
        check_writable("--out", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(HfgenError, match="is no folder"):
        check_writable("--out", tmp_path / "file" / "results.json")
    check_writable("--out", tmp_path / "new" / "results.json")
    write_json(tmp_path / "new" / "results.json", {"a": 1})
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["results.json"]
