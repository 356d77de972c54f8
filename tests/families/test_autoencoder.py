"""An autoencoder through everything that other kinds go through."""

import json
import math

import pytest
import torch
from diffusers import AutoencoderKL
from latent_repositories import VAE, autoencoder, run, save_autoencoder

import hfgen
from hfgen.core.errors import HfgenError
from hfgen.core.history import read_history
from hfgen.core.media import to_model_range
from hfgen.core.random import seeded
from hfgen.data.latents import moments
from hfgen.data.sources import load_source
from hfgen.data.subset import rows_of_text
from hfgen.families.autoencoder.likelihood import KNOTS, PixelLikelihood, likelihood_of
from hfgen.families.autoencoder.loading import fold_shift, load_autoencoder
from hfgen.families.autoencoder.measure import psnr, ssim
from hfgen.families.autoencoder.perceptual import perceptual_distance


def pixels(count=16):
    return torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8, generator=seeded("cpu", 5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Trained 4 steps, by a likelihood, a classifier's features and a discriminator from the third step on."""
    place = tmp_path_factory.mktemp("autoencoder")
    (place / "vae.json").write_text(json.dumps({k: v for k, v in VAE.items() if not k.endswith("factor")}))
    flags = {"perceptual_weight": 0.1, "adversarial_weight": 0.5, "discriminator_start": 2}
    return run(
        place / "out",
        "autoencoder",
        model_config_name_or_path=place / "vae.json",
        logging_steps=1,
        kl_weight=1e-3,
        **flags,
    )


def test_every_term_is_logged_and_the_discriminator_begins_at_its_step(folder):
    rows = [row for row in read_history(folder / "history.jsonl") if "train_discriminator" in row]
    terms = {"loss", "reconstruction", "kl", "perceptual", "adversarial", "discriminator"}
    assert {f"train_{name}" for name in terms} <= set(rows[0])
    started = [row["train_discriminator"] > 0 for row in rows]
    assert started == [False, False, True, True]


def test_stock_diffusers_loads_it_and_its_latents_are_of_mean_0_and_variance_1(folder):
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae")
    record = json.loads((folder / "training.json").read_text())
    assert record["images"] == 64
    images = training_images(record)
    mean, std = moments(vae, images).chunk(2, dim=1)
    assert vae.config.shift_factor == 0
    # by each channel the mean, over all the variance of z = mean + std eps, as the pipeline of the trained weights measured them
    torch.testing.assert_close(mean.mean((0, 2, 3)), torch.zeros(2), rtol=0, atol=1e-5)
    variance = (mean.square() + std.square()).mean() * vae.config.scaling_factor**2
    torch.testing.assert_close(variance, torch.tensor(1.0), rtol=1e-4, atol=0)


def training_images(record):
    """Those rows that the training kept."""
    rows = rows_of_text(record["data"]["train_rows"])
    column = load_source("digits", None)["train"].select(rows)["image"]
    return torch.stack([torch.tensor(list(image.getdata()), dtype=torch.uint8).view(1, 8, 8) for image in column])


def test_it_is_measured_beside_its_floors(folder, tmp_path):
    result = hfgen.evaluate(hfgen.load(folder), hfgen.EvaluationConfig(max_images=50, samples=40, likelihood=True))
    metrics = result.metrics
    assert {"psnr", "psnr_floor", "ssim", "ssim_floor", "negative_elbo", "kid", "kid_floor"} <= set(metrics)
    parts = metrics["reconstruction"].mean + metrics["kl"].mean
    assert metrics["negative_elbo"].mean == pytest.approx(parts)
    assert metrics["negative_elbo_bits_per_dim"].mean == pytest.approx(parts / (64 * math.log(2)))
    assert result.likelihood.quantity == "log-likelihood of 8-bit pixels"
    assert "reconstructions of the images" in result.samples.how
    assert hfgen.EvaluationResult.from_json(result.to_json()).metrics == result.metrics


def test_figures_and_card(folder):
    assert (folder / "reconstructions.png").is_file()
    card = (folder / "README.md").read_text()
    assert 'AutoencoderKL.from_pretrained("out", subfolder="vae")' in card
    assert "trust_remote_code" not in card


def test_it_draws_nothing_of_its_own(folder):
    with pytest.raises(HfgenError, match="draws no images of its own"):
        hfgen.sample(hfgen.load(folder), num_images=2)


def test_an_absolute_error_is_no_likelihood(tmp_path):
    model = hfgen.load(save_autoencoder(tmp_path / "l1", likelihood=False))
    result = hfgen.evaluate(model, hfgen.EvaluationConfig(dataset_name="digits", split="test", max_images=20))
    assert result.likelihood.quantity == "reconstruction of images, no likelihood"
    assert set(result.metrics) == {"psnr", "psnr_floor", "ssim", "ssim_floor"}


def test_the_likelihood_of_a_pixel_sums_to_one():
    likelihood = PixelLikelihood(torch.linspace(-4, 0, KNOTS)).double()
    values = to_model_range(torch.arange(256, dtype=torch.uint8)).double().view(256, 1, 1, 1)
    for decoded in (-1.4, -1.0, 0.13, 0.999):
        nats = likelihood.nats(values, torch.full((256, 1, 1, 1), decoded, dtype=torch.float64))
        assert (-nats).exp().sum().item() == pytest.approx(1, abs=1e-7)  # the width of a bin is a float32


def test_a_shift_in_the_weights_changes_no_image():
    vae, moved = autoencoder(), autoencoder()
    shift = torch.tensor([0.7, -1.3])
    fold_shift(moved, shift)
    x = to_model_range(pixels())
    with torch.no_grad():
        q, p = vae.encode(x).latent_dist, moved.encode(x).latent_dist
        torch.testing.assert_close(p.mean, q.mean - shift[:, None, None], rtol=0, atol=1e-5)
        torch.testing.assert_close(p.std, q.std)
        torch.testing.assert_close(moved.decode(p.mean).sample, vae.decode(q.mean).sample, rtol=0, atol=1e-4)


def test_the_shift_of_others_goes_into_the_weights_when_they_are_loaded(tmp_path):
    vae = autoencoder(shift_factor=0.4)
    vae.save_pretrained(tmp_path / "bare")
    loaded = load_autoencoder(str(tmp_path / "bare"))
    assert loaded.config.shift_factor == 0
    found, given = moments(loaded, pixels())[:, :2], moments(vae, pixels())[:, :2]
    torch.testing.assert_close(found, given - 0.4, rtol=0, atol=1e-5)


def test_psnr_and_ssim_by_hand():
    image, made = torch.zeros(1, 1, 16, 16), torch.full((1, 1, 16, 16), 5.0)
    assert psnr(made, image).item() == pytest.approx(20 * math.log10(255 / 5))
    # of constant images the contrast's part is 1: (2 a b + C1) / (a^2 + b^2 + C1), C1 = (0.01 255)^2
    c1 = (0.01 * 255) ** 2
    assert ssim(made + 10, image + 10).item() == pytest.approx((2 * 15 * 10 + c1) / (15**2 + 10**2 + c1), rel=1e-4)
    assert ssim(pixels(1).float(), pixels(1).float()).item() == pytest.approx(1)


def test_the_perceptual_distance_is_one_of_all_layers_features():
    distance = perceptual_distance("digits", 1)
    x, y = (torch.rand(2, 1, 8, 8, generator=seeded("cpu", i)) for i in range(2))
    assert distance(x, x).tolist() == [0, 0]
    found, states = distance(x, y), [distance._features(part) for part in (x, y)]
    assert len(states[0]) == 4
    by_hand = sum((a - b).square().sum(1).mean((1, 2)) for a, b in zip(*states, strict=True))
    torch.testing.assert_close(found, by_hand)
    torch.testing.assert_close(states[0][0].norm(dim=1), torch.ones_like(states[0][0][:, 0]), rtol=0, atol=1e-2)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"eval_epochs": 1}, "an autoencoder draws no samples to measure"),
        ({"pretrained_autoencoder": "there/is/none"}, "cannot be loaded"),
        (
            {"perceptual_weight": 1, "perceptual_network": "/no/where"},
            "perceptual_network='/no/where' cannot be loaded",
        ),
        (
            {"resolution": 9, "model_config_name_or_path": "digits"},
            "cannot be halved 1 times, as this autoencoder does",
        ),
    ],
)
def test_flags_that_cannot_be(tmp_path, flags, words):
    with pytest.raises(HfgenError, match=words):
        run(tmp_path / "out", "autoencoder", **flags)
    assert not (tmp_path / "out").exists()


def test_the_absolute_error_drops_the_likelihood_of_the_training_before(folder, tmp_path):
    again = run(
        tmp_path / "again", "autoencoder", pretrained_autoencoder=folder, reconstruction="l1", max_train_steps=1
    )
    model = hfgen.load(again)
    assert likelihood_of(model.pipeline.vae) is None
    assert "no likelihood of pixels" in (again / "README.md").read_text()


def test_a_trained_one_is_trained_on(folder, tmp_path):
    again = run(
        tmp_path / "again",
        "autoencoder",
        pretrained_autoencoder=folder,
        max_train_steps=1,
        learning_rate=1e-9,
        kl_weight=0,
    )
    before, after = (load_autoencoder(str(place)) for place in (folder, again))
    torch.testing.assert_close(after.encoder.conv_in.weight, before.encoder.conv_in.weight)
