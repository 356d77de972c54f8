"""Which preset is taken for which images, and which is hinted at."""

import pytest

from hfgen.families.registry import get_family
from hfgen.models.configs import MadeFor, better_preset, choose_preset
from hfgen.models.flow_presets import FLOW_PRESETS, FLOWS_FOR, build_flow
from hfgen.models.gan_presets import GAN_PRESETS, GANS_FOR, build_gan
from hfgen.models.noise_predictor import UNET_PRESETS, UNETS_FOR
from hfgen.models.vae_presets import VAE_PRESETS, VAES_FOR
from hfgen.models.vdm_presets import VDM_PRESETS, VDMS_FOR, build_vdm, load_vdm_config

KINDS = {
    "ddpm": (UNET_PRESETS, UNETS_FOR),
    "flow": (FLOW_PRESETS, FLOWS_FOR),
    "gan": (GAN_PRESETS, GANS_FOR),
    "vae": (VAE_PRESETS, VAES_FOR),
    "vdm": (VDM_PRESETS, VDMS_FOR),
}
CHOSEN = {
    "ddpm": {
        (1, 8): "digits", (1, 28): "mnist", (1, 32): "grey-32", (1, 64): "grey-64", (1, 128): "grey-128",
        (3, 28): "rgb-28", (3, 32): "rgb-32", (3, 64): "rgb-64", (3, 128): "rgb-128",
        (1, 12): "digits", (1, 30): "digits", (3, 8): "rgb-28", (3, 20): "rgb-28", (3, 48): "rgb-64", (3, 100): "rgb-32",
        (3, 512): "rgb-128", (3, 45): "rgb-32",
    },
    "vae": {
        (1, 8): "digits", (1, 28): "mnist-conv", (1, 32): "grey-32", (1, 64): "grey-64", (1, 128): "grey-128",
        (3, 28): "rgb-28", (3, 32): "rgb-32", (3, 64): "rgb-64", (3, 128): "rgb-128", (1, 45): "digits", (3, 500): "rgb-32",
    },
    "flow": {(1, 8): "digits", (1, 28): "mnist", (1, 64): "mnist", (3, 32): "rgb-32", (3, 128): "rgb-32"},
    "gan": {(1, 8): "digits", (1, 28): "mnist", (1, 64): "mnist", (3, 32): "rgb-32", (3, 128): "rgb-32"},
    "vdm": {(1, 8): "digits", (1, 28): "mnist", (1, 64): "mnist", (3, 32): "rgb-32", (3, 128): "rgb-32"},
}  # fmt: skip
MANY = {
    "small": MadeFor(channels=3, side=32, multiple=4),
    "other": MadeFor(channels=3, side=32, default=False),
    "large": MadeFor(channels=3, side=32, default=False, gpu=True),
    "grey": MadeFor(channels=1, side=28),
    "wide": MadeFor(channels=3, side=64, multiple=8),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_preset_follows_from_size_and_channels(kind):
    family = get_family(kind)
    assert {shape: family.preset((*shape, shape[1])) for shape in CHOSEN[kind]} == CHOSEN[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_every_preset_says_what_it_was_made_for(kind):
    presets, made_for = KINDS[kind]
    assert set(made_for) == set(presets)
    sizes = [(made.channels, made.side) for made in made_for.values() if made.default]
    assert len(sizes) == len(set(sizes))
    for name, made in made_for.items():
        assert made.side % made.multiple == 0
        if made.default:
            assert choose_preset(made_for, made.channels, made.side) == name


def test_no_default_vae_takes_pixels_for_black_or_white():
    for name, made in VAES_FOR.items():
        if made.default:
            assert VAE_PRESETS[name]["likelihood"].startswith("discretized_logistic")


@pytest.mark.parametrize(
    ("name", "channels", "side", "on_gpu", "better"),
    [
        ("small", 3, 32, False, None),
        ("other", 3, 32, False, None),
        ("large", 3, 32, False, "small"),  # too large for a CPU
        ("large", 3, 32, True, None),
        ("small", 3, 32, True, "large"),
        ("small", 3, 64, False, "wide"),
        ("large", 3, 64, False, "wide"),
        ("large", 3, 64, True, "wide"),
        ("grey", 3, 32, False, "small"),
        ("wide", 3, 48, False, None),  # the nearest there is
        ("mine.json", 3, 64, False, None),
    ],
)
def test_a_preset_that_suits_better(name, channels, side, on_gpu, better):
    assert better_preset(MANY, name, channels, side, on_gpu) == better


def test_hints_of_the_kinds():
    ddpm, vae = get_family("ddpm"), get_family("vae")
    assert ddpm.better_preset("cifar10", (3, 64, 64), on_gpu=False) == "rgb-64"
    assert ddpm.better_preset("cifar10", (3, 32, 32), on_gpu=False) == "rgb-32"
    assert ddpm.better_preset("mnist", (3, 32, 32), on_gpu=False) == "rgb-32"
    assert ddpm.better_preset("mnist-fourier", (1, 28, 28), on_gpu=False) is None
    assert vae.better_preset("mnist-50d", (3, 32, 32), on_gpu=False) == "rgb-32"
    assert vae.better_preset("mnist-2d", (1, 28, 28), on_gpu=False) is None


@pytest.mark.parametrize(("channels", "side"), CHOSEN["vdm"])
def test_the_chosen_variational_diffusion_model_takes_such_images(channels, side):
    """As a training builds it, which runs it once."""
    name = get_family("vdm").preset((channels, side, side))
    model = build_vdm(load_vdm_config(name), side, channels)
    assert sum(p.numel() for p in model.parameters()) < 1_500_000


@pytest.mark.parametrize(
    ("build", "presets", "made_for"), [(build_flow, FLOW_PRESETS, FLOWS_FOR), (build_gan, GAN_PRESETS, GANS_FOR)]
)
def test_presets_of_flows_and_gans_fit_their_images(build, presets, made_for):
    for name, config in presets.items():
        assert build(config, made_for[name].side, made_for[name].channels)
