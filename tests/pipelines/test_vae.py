"""The VAE's pipeline against its model by hand, and what it saves against a Python that has no hfgen."""

import ast
import json
import re
import shutil
import sys

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DiffusionPipeline, UNet2DModel
from PIL import Image
from sklearn.datasets import load_digits
from torch.distributions import Normal

from hfgen.core.errors import HfgenError
from hfgen.core.media import to_model_range
from hfgen.hub.loading import load
from hfgen.models import LIKELIHOODS, MLPVAE, ConvVAE
from hfgen.pipelines import UnconditionalDiffusionPipeline, VAEPipeline

# float32 sums in another order: values of order 1, a few hundred terms of 6e-8 each
ROUNDING = {"rtol": 0, "atol": 1e-5}


def tiny_vae(kind=MLPVAE, **values):
    """Weights three times their usual size, that images may differ by more than rounding; a mean image of its own."""
    torch.manual_seed(0)
    layers = {"hidden_sizes": (16,)} if kind is MLPVAE else {"block_out_channels": (4, 6)}
    vae = kind(**{"sample_size": 8, "latent_size": 3, "likelihood": "discretized_logistic", **layers, **values})
    with torch.no_grad():
        for weight in vae.parameters():
            weight *= 3
        vae.pixel_mean.uniform_(-1, 0)
    return vae.eval()


class FirstPixels(torch.nn.Module):
    """An encoder that shows its hand: the mean of z is the image's first pixels, the log-variance the next ones."""

    def forward(self, x):
        return x.flatten(1)[:, :6]


def pipeline_of_pixels():
    vae = tiny_vae()
    vae.pixel_mean.zero_()
    vae.encoder = FirstPixels()
    return VAEPipeline(vae)


def image_of(*z):
    """An image (1, 1, 8, 8) in [0, 1] that `FirstPixels` turns into the latents z in [-1, 1]."""
    image = torch.full((1, 1, 8, 8), 0.5)
    image[0, 0, 0, : len(z)] = (torch.tensor(z) + 1) / 2
    return image


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def digits(count=5):
    """uint8 (count, 1, 8, 8)."""
    return torch.from_numpy(np.rint(load_digits().images[:count] * (255 / 16)).astype(np.uint8))[:, None]


def zero_one(x):
    """What pipelines return, [0, 1], of a model's [-1, 1]."""
    return (x / 2 + 0.5).clamp(0, 1)


@pytest.fixture
def pipeline():
    return VAEPipeline(tiny_vae())


@pytest.fixture
def decoded(monkeypatch):
    """The latents that a pipeline's model decodes from now on."""

    def watch(pipeline):
        seen, decode = [], pipeline.vae.decode_outputs
        monkeypatch.setattr(pipeline.vae, "decode_outputs", lambda z: seen.append(z) or decode(z))
        return seen

    return watch


# generation


@torch.no_grad()
def test_images_are_means_of_p_x_given_normal_latents(pipeline, decoded):
    seen = decoded(pipeline)
    images = pipeline(4, seeded(), output_type="pt").images
    assert images.shape == (4, 1, 8, 8)
    (z,) = seen
    assert z.equal(torch.randn(4, 3, generator=seeded()))
    assert images.equal(zero_one(pipeline.vae.decode(z).sample))
    assert (images[0] - images[1]).abs().max() > 0.01


def test_latents_are_standard_normal(pipeline, decoded):
    seen = decoded(pipeline)
    pipeline(4000, seeded(), output_type="pt")
    (z,) = seen
    # five standard errors of a mean, of a variance, and of a mean product of neighbours
    assert abs(z.mean()) < 5 / z.numel() ** 0.5
    assert abs(z.var() - 1) < 5 * (2 / z.numel()) ** 0.5
    assert abs((z[1:] * z[:-1]).mean()) < 5 / z.numel() ** 0.5


def test_forms_of_output_hold_the_same_images(pipeline):
    pt, array, pil = (pipeline(3, seeded(), output_type=kind).images for kind in ("pt", "np", "pil"))
    assert (pt.shape, array.shape) == ((3, 1, 8, 8), (3, 8, 8, 1))
    assert np.array_equal(array, pt.permute(0, 2, 3, 1).numpy())
    assert [(image.mode, image.size) for image in pil] == [("L", (8, 8))] * 3
    assert np.array_equal(np.stack(pil), np.rint(array[..., 0] * 255))
    (only,) = pipeline(3, seeded(), output_type="pt", return_dict=False)
    assert only.equal(pt)
    assert len(pipeline().images) == 1


def test_colour_images():
    pipeline = VAEPipeline(tiny_vae(in_channels=3))
    assert pipeline(2, seeded(), output_type="np").images.shape == (2, 8, 8, 3)
    images = pipeline(2, seeded()).images
    assert [image.mode for image in images] == ["RGB", "RGB"]
    assert pipeline.encode(images).mean.shape == (2, 3)


def test_the_generator_alone_decides(pipeline):
    torch.manual_seed(1)
    first = pipeline(2, seeded(5), output_type="pt").images
    torch.manual_seed(2)
    assert pipeline(2, seeded(5), output_type="pt").images.equal(first)
    assert not pipeline(2, seeded(6), output_type="pt").images.equal(first)


@pytest.mark.parametrize("sample_pixels", [False, True])
def test_an_image_depends_on_its_own_generator_alone(pipeline, sample_pixels):
    flags = {"sample_pixels": sample_pixels, "output_type": "pt"}
    three = pipeline(3, [seeded(1), seeded(2), seeded(3)], **flags).images
    others = pipeline(2, [seeded(9), seeded(2)], **flags).images
    (alone,) = pipeline(1, [seeded(2)], **flags).images
    # a drawn pixel could jump one of 255 levels by rounding; it does not for these seeds
    torch.testing.assert_close(others[1], three[1], **ROUNDING)
    torch.testing.assert_close(alone, three[1], **ROUNDING)
    assert (three[1] - three[2]).abs().max() > 0.01
    assert (others[0] - three[0]).abs().max() > 0.01


def test_given_latents_are_decoded(pipeline):
    z = torch.randn(5, 3, generator=seeded())
    images = pipeline(2, latents=z, output_type="pt").images
    with torch.no_grad():
        assert images.equal(zero_one(pipeline.vae.decode(z).sample))
    halves = torch.cat([pipeline(latents=part, output_type="pt").images for part in (z[:2], z[2:])])
    torch.testing.assert_close(halves, images, **ROUNDING)


@pytest.mark.parametrize("likelihood", [name for name in LIKELIHOODS if name != "discretized_logistic_rgb"])
def test_drawn_pixels_have_the_likelihoods_values_and_means(likelihood):
    pipeline = VAEPipeline(tiny_vae(likelihood=likelihood))
    z = torch.randn(1, 3, generator=seeded())
    count = 500
    drawn = pipeline(latents=z.expand(count, -1), generator=seeded(), sample_pixels=True, output_type="pt").images
    levels = {"bernoulli": 1, "gaussian": None}.get(likelihood.split("_")[0], 255)
    values = drawn.unique()
    if levels is None:
        assert len(values) > drawn.numel() / 10
        drawn = pipeline.vae.likelihood.sample(pipeline.vae.decode_outputs(z.expand(count, -1)), seeded()).detach()
        drawn = drawn / 2 + 0.5  # not clamped: the mean of clamped draws is another
    else:
        torch.testing.assert_close(values * levels, (values * levels).round(), rtol=0, atol=1e-4)
        assert len(values) == levels + 1
    mean = pipeline.vae.decode(z).sample.detach() / 2 + 0.5
    # five standard errors of each of the 64 pixels
    assert ((drawn.mean(0) - mean[0]).abs() < 5 * drawn.std(0) / count**0.5 + 1e-6).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: at least 1"),
        ({"batch_size": 2, "generator": [seeded()]}, "1 generators for 2 images: pass one for each image, or one"),
        ({"output_type": "jpg"}, "output_type='jpg': choose one of pil, np, pt"),
        ({"latents": torch.zeros(2, 4)}, r"latents of shape \(2, 4\): this model takes \(B, 3\)"),
        ({"latents": torch.zeros(0, 3)}, "at least 1"),
        ({"latents": torch.zeros(3)}, r"latents of shape \(3,\): this model takes \(B, 3\)"),
        ({"latents": torch.zeros(2, 2, 3)}, r"latents of shape \(2, 2, 3\): this model takes \(B, 3\)"),
        (
            {"latents": torch.zeros(2, 3), "sample_pixels": True, "generator": [seeded()]},
            "1 generators for 2 images: pass one for each image, or one",
        ),
    ],
)
def test_arguments_of_generation_out_of_range(pipeline, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        pipeline(**arguments)
    assert "\n" not in str(error.value)


# posteriors and reconstructions


@torch.no_grad()
def test_encode_gives_the_models_posterior_in_order(pipeline):
    images = digits(7)
    expected = pipeline.vae.encode(to_model_range(images)).latent_dist
    for batch_size in (1, 3, 256):
        posterior = pipeline.encode(images, batch_size=batch_size)
        torch.testing.assert_close(posterior.mean, expected.mean, **ROUNDING)
        torch.testing.assert_close(posterior.logvar, expected.logvar, **ROUNDING)
    assert torch.pdist(expected.mean).min() > 0.01  # images in another order would be seen
    torch.testing.assert_close(posterior.std, (expected.logvar / 2).exp(), **ROUNDING)
    assert posterior.kl().shape == (7,)
    assert posterior.sample(seeded()).equal(posterior.mean + posterior.std * torch.randn(7, 3, generator=seeded()))


@torch.no_grad()
def test_reconstructions_decode_the_mean_of_the_posterior(pipeline):
    images = digits()
    expected = zero_one(pipeline.vae.decode(pipeline.vae.encode(to_model_range(images)).latent_dist.mean).sample)
    torch.testing.assert_close(pipeline.reconstruct(images, output_type="pt").images, expected, **ROUNDING)
    (only,) = pipeline.reconstruct(images, output_type="np", return_dict=False)
    assert np.allclose(only, expected.permute(0, 2, 3, 1), **ROUNDING)
    assert np.array_equal(np.stack(pipeline.reconstruct(images).images), np.rint(only[..., 0] * 255))


@torch.no_grad()
def test_sampled_posteriors_are_decoded(pipeline):
    q = pipeline.vae.encode(to_model_range(digits())).latent_dist
    again = pipeline.reconstruct(digits(), sample_posterior=True, generator=seeded(), output_type="pt").images
    z = q.mean + q.std * torch.randn(5, 3, generator=seeded())
    torch.testing.assert_close(again, zero_one(pipeline.vae.decode(z).sample), **ROUNDING)
    assert (again - pipeline.reconstruct(digits(), output_type="pt").images).abs().max() > 0.01


@pytest.mark.parametrize("likelihood", ["bernoulli", "discretized_logistic"])
def test_batch_size_does_not_matter(likelihood):
    pipeline = VAEPipeline(tiny_vae(likelihood=likelihood))

    def both(batch_size):
        arguments = {"generator": seeded(), "output_type": "pt", "batch_size": batch_size}
        return [
            pipeline.reconstruct(digits(), sample_posterior=True, sample_pixels=pixels, **arguments).images
            for pixels in (False, True)
        ]

    expected = both(256)
    for batch_size in (1, 2, 5):
        torch.testing.assert_close(both(batch_size), expected, **ROUNDING)
    with pytest.raises(ValueError, match="batch_size=0: at least 1"):
        both(0)


def test_batch_size_does_not_matter_for_drawn_pixels_of_any_number():
    """torch.randn fills 16 numbers at a time: 4 images of 25 pixels at once are other numbers than twice 2 images."""
    pipeline = VAEPipeline(tiny_vae(sample_size=5, likelihood="gaussian"))
    images = torch.rand(4, 1, 5, 5, generator=seeded())
    whole, halves = (
        pipeline.reconstruct(images, sample_pixels=True, generator=seeded(), output_type="pt", batch_size=size).images
        for size in (4, 2)
    )
    torch.testing.assert_close(halves, whole, **ROUNDING)


def test_a_reconstruction_depends_on_its_own_generator_alone():
    """Binarisation, z and pixels are all drawn."""
    pipeline = VAEPipeline(tiny_vae(likelihood="bernoulli"))

    def draw(images, *seeds, batch_size=256):
        flags = {"sample_posterior": True, "sample_pixels": True, "output_type": "pt", "batch_size": batch_size}
        return pipeline.reconstruct(images, generator=[seeded(seed) for seed in seeds], **flags).images

    images = digits(3)
    three = draw(images, 1, 2, 3)
    assert draw(images[1:2], 2)[0].equal(three[1])
    assert draw(images[[1, 2]], 9, 3)[1].equal(three[2])
    assert draw(images, 1, 2, 3, batch_size=2).equal(three)
    assert not draw(images[1:2], 9)[0].equal(three[1])
    with pytest.raises(ValueError, match="2 generators for 3 images"):
        draw(images, 1, 2)


# binarisation of what is encoded


@pytest.fixture
def encoded(monkeypatch):
    """The images in [-1, 1] that a pipeline's model encodes."""

    def watch(pipeline):
        seen, encode = [], pipeline.vae.encode
        monkeypatch.setattr(pipeline.vae, "encode", lambda x: seen.append(x) or encode(x))
        return seen

    return watch


@pytest.mark.parametrize("likelihood", ["bernoulli", "bernoulli_static"])
def test_pixels_are_cut_at_a_half_without_a_generator(likelihood, encoded):
    pipeline = VAEPipeline(tiny_vae(likelihood=likelihood))
    seen = encoded(pipeline)
    grey = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8) * 4
    grey[0, 0, 0, :4] = torch.tensor([127, 128, 0, 255])
    half = torch.full((1, 1, 8, 8), 0.5)
    pipeline.encode(grey)
    pipeline.encode(half)
    assert seen[0].equal(torch.where(grey >= 128, 1.0, -1.0))  # 127 / 255 < 0.5 < 128 / 255
    assert seen[1].eq(1).all()


@pytest.mark.parametrize("likelihood", ["bernoulli", "bernoulli_static"])
def test_pixels_are_drawn_with_a_generator(likelihood, encoded):
    pipeline = VAEPipeline(tiny_vae(likelihood=likelihood))
    seen = encoded(pipeline)
    count = 4000
    grey = torch.linspace(0, 1, 64).reshape(1, 1, 8, 8)
    pipeline.encode(grey.expand(count, -1, -1, -1), seeded(), batch_size=count)
    (x,) = seen
    assert set(x.unique().tolist()) == {-1.0, 1.0}
    white = (x > 0).float().mean(0, keepdim=True)
    # five standard errors of each frequency; none at 0 and 1
    assert ((white - grey).abs() <= 5 * (grey * (1 - grey) / count).sqrt() + 1e-6).all()
    neighbours = ((x > 0).float() - grey)[:, 0, 4]
    covariance = (neighbours[:, 1:] * neighbours[:, :-1]).mean()
    assert abs(covariance) < 5 * 0.25 / (count * 7) ** 0.5
    pipeline.encode(grey, seeded(1))
    pipeline.encode(grey, seeded(1))
    pipeline.encode(grey, [seeded(1)])
    assert seen[1].equal(seen[2])
    assert seen[1].equal(seen[3])


@pytest.mark.parametrize("likelihood", ["bernoulli_grey", "gaussian", "discretized_logistic", "categorical"])
def test_pixels_stay_grey_for_the_other_likelihoods(likelihood, encoded):
    pipeline = VAEPipeline(tiny_vae(likelihood=likelihood))
    seen = encoded(pipeline)
    pipeline.encode(digits(), seeded())
    torch.testing.assert_close(seen[0], to_model_range(digits()), rtol=0, atol=1e-6)


# interpolation


@pytest.mark.parametrize("path", ["spherical", "linear"])
def test_walks_of_several_pairs_follow_each_other_from_end_to_end(pipeline, path):
    a, b = digits(3), digits(6)[3:]
    walks = pipeline.interpolate(a, b, steps=4, path=path, output_type="pt", batch_size=5).images
    assert walks.shape == (12, 1, 8, 8)
    walks = walks.unflatten(0, (3, 4))
    torch.testing.assert_close(walks[:, 0], pipeline.reconstruct(a, output_type="pt").images, **ROUNDING)
    torch.testing.assert_close(walks[:, -1], pipeline.reconstruct(b, output_type="pt").images, **ROUNDING)
    for i in range(3):
        alone = pipeline.interpolate(a[i], b[i], steps=4, path=path, output_type="np").images
        assert np.allclose(alone, walks[i].permute(0, 2, 3, 1), **ROUNDING)


def test_default_walk_is_eight_pil_images_along_the_sphere(pipeline):
    a, b = digits(2)
    images = pipeline.interpolate(a, b).images
    spherical, linear = (
        pipeline.interpolate(a, b, steps=8, path=path, output_type="np").images for path in ("spherical", "linear")
    )
    assert np.array_equal(np.stack(images), np.rint(spherical[..., 0] * 255))
    assert np.abs(spherical - linear).max() > 0.01
    assert isinstance(pipeline.interpolate(a, b, return_dict=False), tuple)


@torch.no_grad()
def test_the_middle_of_a_straight_line_is_the_mean_of_the_latents(pipeline):
    a, b = digits(2)
    z = pipeline.vae.encode(to_model_range(digits(2))).latent_dist.mean
    expected = zero_one(pipeline.vae.decode(z.mean(0, keepdim=True)).sample)
    images = pipeline.interpolate(a, b, steps=3, path="linear", output_type="pt").images
    torch.testing.assert_close(images[1:2], expected, **ROUNDING)


def test_a_spherical_walk_turns_evenly_while_its_length_changes_linearly(decoded):
    pipeline = pipeline_of_pixels()
    seen = decoded(pipeline)
    a, b = torch.tensor([0.9, 0.1, -0.3]), torch.tensor([-0.2, 0.4, 0.1])
    pipeline.interpolate(image_of(*a.tolist()), image_of(*b.tolist()), steps=6, output_type="pt")
    (z,) = seen
    torch.testing.assert_close(z[[0, -1]], torch.stack([a, b]), **ROUNDING)
    lengths = torch.lerp(a.norm(), b.norm(), torch.linspace(0, 1, 6))
    torch.testing.assert_close(z.norm(dim=1), lengths, **ROUNDING)
    cosines = torch.cosine_similarity(z[1:], z[:-1])
    whole = torch.acos(torch.cosine_similarity(a, b, dim=0))
    torch.testing.assert_close(cosines, (whole / 5).cos().expand(5), **ROUNDING)
    # all in the plane of a and b
    assert torch.linalg.svdvals(z)[2] < 1e-5


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((0.5, 0.25, -0.5), (0.5, 0.25, -0.5)),
        ((0.5, 0.25, -0.5), (0.25, 0.125, -0.25)),
        ((0.5, 0.25, -0.5), (0.5, 0.2501, -0.5)),
        ((0.0, 0.0, 0.0), (0.5, 0.25, -0.5)),
        ((0.5, 0.25, -0.5), (0.0, 0.0, 0.0)),
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
        ((0.5, 0.25, -0.5), (-0.5, -0.25, 0.5)),
    ],
    ids=["equal", "parallel", "nearly", "from zero", "to zero", "zero", "opposite"],
)
def test_where_there_is_no_angle_the_walk_is_straight(a, b, decoded):
    pipeline = pipeline_of_pixels()
    seen = decoded(pipeline)
    images = pipeline.interpolate(image_of(*a), image_of(*b), steps=5, output_type="pt").images
    assert images.isfinite().all()
    expected = torch.lerp(torch.tensor([a]), torch.tensor([b]), torch.linspace(0, 1, 5)[:, None])
    torch.testing.assert_close(seen[0], expected, **ROUNDING)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 1}, "steps=1: at least 2, the two ends"),
        ({"path": "straight"}, "path='straight': choose one of spherical, linear"),
        ({"b": digits(2)}, "1 images in a and 2 in b: pass as many in each"),
        ({"batch_size": 0}, "batch_size=0: at least 1"),
        ({"output_type": "gif"}, "output_type='gif': choose one of"),
    ],
)
def test_arguments_of_interpolation_out_of_range(pipeline, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipeline.interpolate(**{"a": digits(1), "b": digits(1), **arguments})


# the plane of two latents


@torch.no_grad()
@pytest.mark.parametrize("n", [1, 2, 5])
def test_manifold_decodes_the_quantiles_with_z_1_to_the_right_and_z_2_upwards(n, decoded):
    pipeline = VAEPipeline(tiny_vae(latent_size=2))
    quantiles = Normal(0.0, 1.0).icdf((torch.arange(n, dtype=torch.float64) + 0.5) / n).float()
    z = torch.stack([torch.stack([right, up]) for up in quantiles.flip(0) for right in quantiles])
    seen = decoded(pipeline)
    images = pipeline.manifold(n, output_type="pt", batch_size=n * n).images
    torch.testing.assert_close(seen[0], z, rtol=0, atol=1e-6)
    torch.testing.assert_close(images, zero_one(pipeline.vae.decode(z).sample), **ROUNDING)
    torch.testing.assert_close(pipeline.manifold(n, output_type="pt", batch_size=3).images, images, **ROUNDING)
    if n == 5:
        rows = z.unflatten(0, (n, n))
        (top_left, top_right), (bottom_left, _) = rows[[0, -1]][:, [0, -1]]
        assert top_left[0] < 0 < top_right[0]
        assert bottom_left[1] < 0 < top_left[1]
        assert rows[2, 2].eq(0).all()


def test_manifold_needs_two_latents(pipeline):
    with pytest.raises(ValueError, match="this model has 3 latents: a manifold is drawn of 2"):
        pipeline.manifold(4)
    plane = VAEPipeline(tiny_vae(latent_size=2))
    with pytest.raises(ValueError, match="n=0: at least 1"):
        plane.manifold(0)
    assert len(plane.manifold().images) == 400


# images in


def forms(image):
    """One uint8 image (1, 8, 8) in every form that is taken."""
    grey = image[0].numpy()
    pil = Image.fromarray(grey)
    unit = image.float() / 255
    return {
        "PIL": pil,
        "list of PIL": [pil],
        "tuple of PIL": (pil,),
        "uint8 array (H, W)": grey,
        "uint8 array (H, W, C)": grey[..., None],
        "uint8 array (B, H, W, C)": grey[None, ..., None],
        "list of arrays (H, W)": [grey],
        "list of arrays (H, W, C)": [grey[..., None]],
        "float32 array": (grey / np.float32(255))[..., None],
        "float64 array (H, W)": grey / 255.0,
        "upside down array": np.ascontiguousarray(grey[::-1])[::-1],
        "uint8 tensor (B, C, H, W)": image[None],
        "uint8 tensor (C, H, W)": image,
        "float tensor": unit[None],
        "float64 tensor": image.double()[None] / 255,
        "list of tensors": [unit],
        "channels last tensor": unit[None].contiguous(memory_format=torch.channels_last),
    }


@pytest.mark.parametrize("form", forms(digits(1)[0]))
def test_every_form_of_an_image_gives_the_same_tensor(pipeline, form):
    image = torch.arange(64, dtype=torch.uint8).reshape(1, 8, 8) * 4 + 3  # asymmetric, up to 255
    x = pipeline.preprocess(forms(image)[form])
    assert x.dtype == torch.float32
    assert x.equal(pipeline.preprocess(image[None]))
    # 255 divides, doubles, subtracts; the trainer divides by 127.5 and subtracts
    torch.testing.assert_close(x, to_model_range(image)[None], rtol=0, atol=2e-7)


def test_several_images_keep_their_order_in_every_form(pipeline):
    images = digits(4)
    expected = pipeline.preprocess(images)
    assert expected.shape == (4, 1, 8, 8)
    greys = [image[0].numpy() for image in images]
    several = [
        [Image.fromarray(grey) for grey in greys],
        greys,
        np.stack(greys)[..., None],
        list(images),
        [images[:1], images[1:]],
        images.float() / 255,
        [Image.fromarray(greys[0]), greys[1], images[2], images[3].float() / 255],
    ]
    for form in several:
        assert pipeline.preprocess(form).equal(expected)


def test_colour_images_keep_their_channels():
    pipeline = VAEPipeline(tiny_vae(in_channels=3))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    expected = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    for form in (pixels, [Image.fromarray(image) for image in pixels], torch.from_numpy(pixels).permute(0, 3, 1, 2)):
        torch.testing.assert_close(pipeline.preprocess(form), expected, rtol=0, atol=2e-7)


def test_black_and_white_pil_images_are_taken(pipeline):
    image = Image.fromarray(digits(1)[0, 0].numpy()).point(lambda value: 255 * (value > 99), mode="1")
    assert pipeline.preprocess(image).equal(torch.where(digits(1) > 99, 1.0, -1.0))


def test_what_goes_in_stays_as_it_was(pipeline):
    tensor, array = torch.rand(2, 1, 8, 8), np.random.default_rng(0).random((2, 8, 8, 1))
    before = tensor.clone(), array.copy()
    for images in (tensor, array):
        pipeline.encode(images, seeded())
    assert tensor.equal(before[0])
    assert np.array_equal(array, before[1])


GREY = np.zeros((8, 8), np.uint8)
UNIT = torch.rand(1, 1, 8, 8, generator=seeded())


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((9, 8), np.uint8), "images of 1x9x8 .*: this model takes 1x8x8; convert, resize or crop"),
        (Image.new("L", (9, 8)), "images of 1x8x9 .*: this model takes 1x8x8"),
        (torch.zeros(2, 1, 7, 7), "images of 1x7x7 .*: this model takes 1x8x8"),
        (torch.zeros(2, 3, 8, 8), "images of 3x8x8 .*: this model takes 1x8x8"),
        (np.zeros((8, 8, 3)), "images of 3x8x8 .*: this model takes 1x8x8"),
        (np.zeros((5, 8, 8)), "images of 8x5x8 .*: this model takes 1x8x8"),
        (torch.zeros(8, 8), r"images of 8x8 \(channels x height x width\): this model takes 1x8x8"),
        (torch.zeros(2, 1, 1, 8, 8), r"images of 2x1x1x8x8 .*: this model takes 1x8x8"),
        (np.zeros((2, 1, 8, 8, 1)), r"images of 2x1x8x8x1 .*: this model takes 1x8x8"),
        (Image.new("RGB", (8, 8)), r"a PIL image of mode RGB: this model takes L; use image.convert\('L'\)"),
        (Image.new("P", (8, 8)), r"a PIL image of mode P: this model takes L; use image.convert\('L'\)"),
        (1.5 * UNIT / UNIT.max(), r"pixels from .* to 1.5: pass values in \[0, 1\]; divide 0..255 by 255"),
        (GREY.astype(np.float32) + 255, r"pixels from 255 to 255: pass values in \[0, 1\]; divide 0..255 by 255"),
        (torch.full((1, 1, 8, 8), -3.0), r"pixels from -3 to -3: pass values in \[0, 1\]"),
        (UNIT * 2 - 1, r"pixels from -.* to .*: pass values in \[0, 1\]; x / 2 \+ 0.5 brings \[-1, 1\] there"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.int64), r"pixels of type torch.int64: pass uint8 .* or floating point"),
        (np.zeros((8, 8), np.int32), "pixels of type torch.int32: pass uint8"),
        (np.zeros((8, 8), bool), "pixels of type torch.bool: pass uint8"),
        (UNIT.to(torch.complex64), "pixels of type torch.complex64: pass uint8"),
        (torch.full((1, 1, 8, 8), torch.nan), r"pixels from nan to nan: pass values in \[0, 1\]"),
        (torch.where(UNIT > 0.5, UNIT, torch.inf), r"pixels from .* to inf: pass values in \[0, 1\]"),
        ([], "no images: pass at least one"),
        (np.zeros((0, 8, 8, 1)), "no images: pass at least one"),
        ("digit.png", "an image of type str: pass PIL images, numpy arrays or tensors"),
        (None, "an image of type NoneType: pass PIL images"),
        ({"image": GREY}, "an image of type dict: pass PIL images"),
        ([GREY, "digit.png"], "an image of type str: pass PIL images"),
        ([[GREY]], "an image of type list: pass PIL images"),
        ([GREY, np.zeros((9, 8), np.uint8)], "images of 1x9x8 .*: this model takes 1x8x8"),
        ([UNIT, UNIT * 2 - 1], r"pixels from -.*\[-1, 1\] there"),
        (np.full((8, 8), None), "pixels of type object: pass uint8 in 0..255 or floating point"),
    ],
)
def test_images_that_cannot_be_used_are_named_with_the_way_out(pipeline, images, message):
    for call in (pipeline.preprocess, pipeline.encode, pipeline.reconstruct):
        with pytest.raises(ValueError, match=message) as error:
            call(images)
        assert "\n" not in str(error.value)


def test_grey_images_for_a_model_of_colour_are_named_with_the_way_out():
    pipeline = VAEPipeline(tiny_vae(in_channels=3))
    with pytest.raises(ValueError, match=r"PIL image of mode L: this model takes RGB; use image.convert\('RGB'\)"):
        pipeline.preprocess(Image.new("L", (8, 8)))
    with pytest.raises(ValueError, match=r"images of 1x8x8 .*: this model takes 3x8x8"):
        pipeline.preprocess(GREY)


# saving


KINDS = {"MLPVAE": MLPVAE, "ConvVAE": ConvVAE}
LAYOUT = {
    "model_index.json",
    "pipeline_hfgen_vae.py",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "vae/modeling_hfgen_vae.py",
}


@pytest.fixture
def saved(tmp_path, offline):
    """A folder for each kind of model, saved, loaded and saved again: the second saving knows where it was loaded."""
    for name, kind in KINDS.items():
        VAEPipeline(tiny_vae(kind)).save_pretrained(tmp_path / f"{name}-first")
        VAEPipeline.from_pretrained(tmp_path / f"{name}-first").save_pretrained(tmp_path / name)
    return tmp_path


def files_of(folder):
    return {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}


def check_layout(folder, kind, parent):
    files = files_of(folder)
    assert set(files) == LAYOUT
    index = json.loads(files["model_index.json"].read_text())
    assert index.pop("_diffusers_version")
    code = {"auto_map": {"AutoModel": f"modeling_hfgen_vae.{kind}"}}
    assert index == {"_class_name": ["pipeline_hfgen_vae", "VAEPipeline"], "vae": ["modeling_hfgen_vae", kind], **code}
    config = json.loads(files["vae/config.json"].read_text())
    assert (config["_class_name"], config["auto_map"]) == (kind, code["auto_map"])
    assert (config["sample_size"], config["latent_size"], config["likelihood"]) == (8, 3, "discretized_logistic")
    for path in files.values():
        content = path.read_bytes()
        assert b"_name_or_path" not in content or path.suffix == ".py"
        assert str(parent).encode() not in content
        assert re.search(rb"[\"'](/work|/home|/root|/tmp)\b", content) is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_folder_holds_its_code_and_no_path(saved, kind, repository):
    for folder in (saved / f"{kind}-first", saved / kind):
        check_layout(folder, kind, saved)
        code = (repository / "pipelines/pipeline_hfgen_vae.py", repository / "hfgen/models/modeling_hfgen_vae.py")
        assert (folder / "pipeline_hfgen_vae.py").read_text() == code[0].read_text()
        assert (folder / "vae/modeling_hfgen_vae.py").read_text() == code[1].read_text()


def test_the_code_that_ships_imports_only_what_a_stranger_has(saved):
    for path in saved.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.ImportFrom) and node.level)
            modules = [node.module] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in modules:
                top = module.split(".")[0]
                # numpy and pillow come with diffusers
                assert top in sys.stdlib_module_names | {"torch", "diffusers", "numpy", "PIL"}


def test_saving_changes_nothing_in_the_pipeline(saved, tmp_path):
    pipeline = VAEPipeline.from_pretrained(saved / "MLPVAE")
    vae, config = pipeline.vae, dict(pipeline.vae.config)
    components, index = dict(pipeline.components), dict(pipeline.config)
    pipeline.save_pretrained(tmp_path / "again")
    pipeline.save_pretrained(tmp_path / "again")
    assert pipeline.vae is vae
    assert (dict(vae.config), dict(pipeline.components), dict(pipeline.config)) == (config, components, index)
    check_layout(tmp_path / "again", "MLPVAE", tmp_path)


STRANGER = """
import sys
from pathlib import Path
import torch
from diffusers import DiffusionPipeline

root, poisoned, cache = map(Path, sys.argv[1:])
for kind in ("MLPVAE", "ConvVAE"):
    pipeline = DiffusionPipeline.from_pretrained(root / kind, trust_remote_code=True)
    images = pipeline(3, torch.Generator().manual_seed(0), output_type="pt").images
    again = pipeline.reconstruct(images, output_type="pt").images
    walk = pipeline.interpolate(images[0], images[1], steps=3, output_type="pt").images
    pipeline.save_pretrained(root / f"{kind}-stranger")
    second = DiffusionPipeline.from_pretrained(root / f"{kind}-stranger", trust_remote_code=True)
    second.save_pretrained(root / f"{kind}-stranger-again")
    for one in (pipeline, second):
        assert (type(one).__name__, type(one.vae).__name__) == ("VAEPipeline", kind)
        assert "diffusers_modules" in type(one).__module__ and "diffusers_modules" in type(one.vae).__module__
        assert one(3, torch.Generator().manual_seed(0), output_type="pt").images.equal(images)
    torch.save((images, again, walk), root / f"{kind}.pt")
assert not any(name.startswith("hfgen.") for name in sys.modules)
assert Path(sys.modules[type(pipeline).__module__].__file__).is_relative_to(cache)

def outcome(**trust):
    try:
        DiffusionPipeline.from_pretrained(poisoned, **trust)
    except BaseException as error:
        return type(error).__name__
print(outcome(), outcome(trust_remote_code=False), outcome(trust_remote_code=True))
"""


@pytest.fixture
def poisoned(saved):
    """A copy of a saved folder whose code ends the process that runs it."""
    folder = shutil.copytree(saved / "MLPVAE", saved / "poisoned")
    for path in folder.rglob("*.py"):
        path.write_text("raise SystemExit(7)\n")
    return folder


def test_a_stranger_without_hfgen_loads_generates_saves_and_loads_again(saved, poisoned, stranger):
    done = stranger.run(STRANGER, saved, poisoned, stranger.home / "modules", token=None).check()
    # the code is run by those alone who trust it
    assert done.out.split() == ["ValueError", "ValueError", "SystemExit"]
    for kind in KINDS:
        ours = VAEPipeline.from_pretrained(saved / kind)
        images, again, walk = torch.load(saved / f"{kind}.pt")
        torch.testing.assert_close(ours(3, seeded(), output_type="pt").images, images, **ROUNDING)
        torch.testing.assert_close(ours.reconstruct(images, output_type="pt").images, again, **ROUNDING)
        expected = ours.interpolate(images[0], images[1], steps=3, output_type="pt").images
        torch.testing.assert_close(expected, walk, **ROUNDING)
        for folder in (saved / f"{kind}-stranger", saved / f"{kind}-stranger-again"):
            check_layout(folder, kind, saved)
            loaded = VAEPipeline.from_pretrained(folder).vae.state_dict()
            assert all(value.equal(loaded[name]) for name, value in ours.vae.state_dict().items())


# loading


@pytest.mark.parametrize("load", [VAEPipeline.from_pretrained, lambda folder: load(folder).pipeline])
@pytest.mark.parametrize("kind", KINDS)
def test_hfgen_loads_its_own_classes_and_the_same_images(saved, kind, load):
    loaded = load(str(saved / kind))
    assert type(loaded) is VAEPipeline
    assert type(loaded.vae) is KINDS[kind]
    assert not loaded.vae.training
    original = VAEPipeline(tiny_vae(KINDS[kind]))
    assert all(value.equal(loaded.vae.state_dict()[name]) for name, value in original.vae.state_dict().items())
    flags = {"sample_pixels": True, "output_type": "pt"}
    assert loaded(3, seeded(), **flags).images.equal(original(3, seeded(), **flags).images)


def test_hfgen_never_runs_the_repositorys_code(poisoned):
    for loaded in (
        VAEPipeline.from_pretrained(poisoned),
        VAEPipeline.from_pretrained(poisoned, trust_remote_code=True),
        load(poisoned).pipeline,
    ):
        assert type(loaded.vae) is MLPVAE
    with pytest.raises(ValueError, match="trust_remote_code"):
        DiffusionPipeline.from_pretrained(poisoned)


def test_a_folder_without_code_loads(saved):
    for path in (saved / "MLPVAE").rglob("*.py"):
        path.unlink()
    assert type(load(saved / "MLPVAE").pipeline.vae) is MLPVAE


def test_weights_in_another_precision(saved):
    half = VAEPipeline.from_pretrained(saved / "MLPVAE", torch_dtype=torch.bfloat16)
    assert half.vae.dtype == torch.bfloat16
    assert half(2, seeded(), output_type="np").images.dtype == np.float32
    assert half.encode(digits()).mean.dtype == torch.bfloat16


def test_white_stays_white_in_another_precision():
    """A float32 number above 0.998 is 1 in bf16."""
    pipeline = VAEPipeline(tiny_vae(likelihood="bernoulli").bfloat16())
    white = torch.ones(500, 1, 8, 8, dtype=torch.bfloat16)
    assert pipeline._binarized(white, seeded()).equal(white)


def test_a_model_at_hand_takes_the_place_of_the_saved_one(poisoned):
    vae = tiny_vae(likelihood="bernoulli")
    assert VAEPipeline.from_pretrained(poisoned, vae=vae).vae is vae


def refusal(path):
    with pytest.raises(HfgenError) as error:
        load(path)
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_places_that_hold_no_whole_vae_are_refused_in_a_line(saved):
    for name in ("vae/diffusion_pytorch_model.safetensors", "vae/config.json", "model_index.json"):
        folder = shutil.copytree(saved / "MLPVAE", saved / "incomplete", dirs_exist_ok=True)
        (folder / name).unlink()
        message = refusal(folder)
        assert f"{name.replace('model.safe', 'model*.safe')} missing: pass the --output_dir of" in message
    message = refusal(saved / "MLPVAE/model_index.json")
    assert "is a file: pass the folder that holds model_index.json" in message
    assert "does not exist: pass a pipeline's folder" in refusal(saved / "nowhere")


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_damaged_vaes_are_refused_in_a_line(saved):
    weights = saved / "MLPVAE/vae/diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:200])
    assert "cannot be loaded, a file is damaged or missing" in refusal(saved / "MLPVAE")
    weights.write_bytes(whole)
    config = saved / "MLPVAE/vae/config.json"
    for changes in ({"latent_size": 4}, {"likelihood": "beta"}, {"_class_name": "AutoencoderKL"}):
        before = config.read_text()
        edit(config, **changes)
        assert "cannot be loaded" in refusal(saved / "MLPVAE")
        config.write_text(before)
    assert type(load(saved / "MLPVAE").pipeline) is VAEPipeline


def test_other_code_of_a_repository_is_refused_in_a_line(saved):
    edit(saved / "MLPVAE/model_index.json", _class_name=["pipeline_hfgen_pixelcnn", "PixelCNNPipeline"])
    message = refusal(saved / "MLPVAE")
    assert "brings code of its own, which hfgen does not run: read it, then load it with" in message


def test_a_diffusion_model_is_no_vae(tmp_path):
    unet = UNet2DModel(8, 1, 1, block_out_channels=(8, 8), norm_num_groups=4, add_attention=False, layers_per_block=1,
                       down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)  # fmt: skip
    UnconditionalDiffusionPipeline(unet, DDPMScheduler(20)).save_pretrained(tmp_path)
    with pytest.raises((OSError, ValueError)):
        VAEPipeline.from_pretrained(tmp_path)
