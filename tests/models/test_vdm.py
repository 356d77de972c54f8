"""The schedule and the network of a variational diffusion model."""

import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from hfgen.core.errors import HfgenError
from hfgen.models.modeling_hfgen_vdm import NoiseSchedule, VDMModel
from hfgen.models.vdm_presets import VDM_PRESETS, build_vdm, load_vdm_config

UNET = {
    "block_out_channels": [8],
    "down_block_types": ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "add_attention": False,
}
TIMES = torch.linspace(0, 1, 501, dtype=torch.float64)


def bent(kind="network", **ends):
    """A schedule whose weights are far from where they start."""
    torch.manual_seed(1)
    schedule = NoiseSchedule(kind, features=32, **ends)
    for parameter in schedule.parameters():
        parameter.data += torch.randn_like(parameter) * (0.3 if parameter.shape == (2,) else 2.0)
    return schedule


def tiny(**changes):
    torch.manual_seed(0)
    return VDMModel(**{"sample_size": 8, "gamma_features": 16, "unet_config": UNET, **changes})


@pytest.mark.parametrize("kind", ["fixed", "scalar", "network"])
def test_a_schedule_starts_as_the_line_between_its_ends(kind):
    gamma = NoiseSchedule(kind)(TIMES)
    torch.testing.assert_close(gamma[[0, -1]], torch.tensor([-13.3, 5.0], dtype=torch.float64))
    assert (gamma - (-13.3 + 18.3 * TIMES)).abs().max() < 0.3
    assert (gamma.diff() > 0).all()


@pytest.mark.parametrize("kind", ["scalar", "network"])
def test_whatever_is_learned_it_increases_between_its_ends(kind):
    schedule = bent(kind)
    gamma, (low, high) = schedule(TIMES), schedule.ends()
    assert (gamma.diff() > 0).all()
    torch.testing.assert_close(gamma[[0, -1]], torch.stack([low, high]))
    assert abs(low + 13.3) > 0.01
    schedule.check()


def test_the_ends_of_a_network_are_parameters_of_their_own():
    schedule = bent()
    ends = schedule.ends()
    for parameter in (schedule.l1, schedule.l2, schedule.l2_bias, schedule.l3):
        parameter.data += torch.randn_like(parameter)
    assert schedule.ends() == ends
    assert schedule(TIMES)[0] == ends[0]
    (gradient,) = torch.autograd.grad(schedule(TIMES)[-1], schedule.shift)
    assert gradient.tolist() == [0, 1]


@pytest.mark.parametrize("kind", ["fixed", "scalar", "network"])
def test_its_rate_is_the_derivative(kind):
    schedule, t = bent(kind), TIMES[1:-1].clone().requires_grad_()
    if kind == "fixed":
        assert schedule.rate(t).tolist() == pytest.approx([18.3] * len(t))
        return
    (derivative,) = torch.autograd.grad(schedule(t).sum(), t)
    torch.testing.assert_close(schedule.rate(t), derivative)


def test_it_stays_wide_in_narrow_surroundings():
    schedule = bent()
    wide = schedule(TIMES.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert schedule(TIMES.float()).dtype == torch.float32
        torch.testing.assert_close(schedule(TIMES.float()), wide, rtol=0, atol=0)
    assert schedule(TIMES.half()).dtype == torch.float32


def test_a_fixed_schedule_has_nothing_to_learn():
    assert list(NoiseSchedule("fixed").parameters()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kind": "cosine"}, "gamma='cosine'.*fixed, scalar, network"),
        ({"gamma_min": 5.0, "gamma_max": -13.3}, "gamma_min=5 and gamma_max=-13.3.*swap"),
        ({"gamma_max": math.inf}, "gamma_max=inf"),
        ({"gamma_min": math.nan}, "gamma_min=nan"),
        ({"features": 0}, "features=0"),
    ],
)
def test_bad_schedules_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        NoiseSchedule(**arguments)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("schedule.shift", [30.0, 0.0], "are crossed"),
        ("schedule.shift", [math.nan, 0.0], "not finite"),
        ("schedule.l2", math.nan, "not finite"),
    ],
)
def test_a_damaged_schedule_is_refused_when_it_is_loaded(tmp_path, name, value, words):
    tiny().save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors[name] = torch.full_like(tensors[name], value) if isinstance(value, float) else torch.tensor(value)
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=words):
        VDMModel.from_pretrained(tmp_path)


def test_a_schedule_is_a_model_of_its_own(tmp_path):
    schedule = bent()
    schedule.save_pretrained(tmp_path)
    torch.testing.assert_close(NoiseSchedule.from_pretrained(tmp_path)(TIMES), schedule(TIMES), rtol=0, atol=0)


@pytest.mark.parametrize("changes", [{}, {"patch_size": 2}, {"prediction_type": "v_prediction", "num_classes": 3}])
def test_the_network_predicts_in_the_shape_of_its_images(changes):
    model = tiny(**changes)
    z = torch.randn(2, 1, 8, 8)
    output = model(z, torch.tensor([-13.0, 4.0])).sample
    assert output.shape == z.shape
    # the last convolution starts at 0: what is left is what is added to it
    expected = torch.zeros_like(z) if "prediction_type" in changes else z
    assert torch.equal(output, expected)


def test_it_is_told_the_noise_level_and_the_class():
    model = tiny(num_classes=2, patch_size=2)
    torch.nn.init.normal_(model.fine.conv_out.weight)
    for block in model.fine.blocks:
        torch.nn.init.normal_(block.conv_2.weight)
    z, gamma = torch.randn(1, 1, 8, 8), torch.tensor([-5.0])
    one, other, none, null = (
        model(z, gamma, class_labels=None if label is None else torch.tensor([label])).sample
        for label in (0, 1, None, 2)
    )
    assert not torch.equal(one, other)
    assert torch.equal(none, null)
    assert not torch.equal(model(z, gamma + 1).sample, none)


def test_fourier_features_tell_neighbouring_values_apart():
    model = tiny()
    values = torch.arange(256.0).view(1, 1, 16, 16)
    features = model._features((values - 127.5) / 128)
    assert features.shape == (1, 7, 16, 16)
    finest = features[0, 3].flatten()  # sin(2 pi 2^6 f)
    assert (finest[1:] * finest[:-1] < -0.99).all()
    offsets = torch.linspace(-1, 1, 16).view(1, 1, 4, 4) * 1e-3  # of bins 7.8e-3 apart
    of_centre, beside = (model._features((torch.full((1, 1, 4, 4), 77.0) - 127.5) / 128 + o) for o in (0.0, offsets))
    found = (beside - of_centre)[0, 5]  # sin(2 pi 2^7 f)
    torch.testing.assert_close(found, -(2 * math.pi * 128 * offsets[0, 0]).sin(), atol=1e-3, rtol=0)
    assert model.noise_level(torch.tensor([-13.3, 5.0])).tolist() == pytest.approx([0.0, 1000.0], abs=1e-3)


def test_the_published_sizes():
    def parameters(name):
        with torch.device("meta"):
            return sum(p.numel() for p in VDMModel(**VDM_PRESETS[name]).unet.parameters())

    assert parameters("mnist-gpu") == pytest.approx(1.3e6, rel=0.03)
    assert parameters("mnist-gpu-large") == pytest.approx(8.9e6, rel=0.01)


def test_weights_come_back_and_a_narrow_copy_keeps_its_schedule(tmp_path):
    model = tiny(patch_size=2)
    model.save_pretrained(tmp_path)
    narrow = VDMModel.from_pretrained(tmp_path, torch_dtype=torch.float16)
    assert narrow.unet.conv_in.weight.dtype == torch.float16
    assert narrow.schedule.l2.dtype == torch.float32


@pytest.mark.parametrize("name", [*VDM_PRESETS])
def test_presets_are_configs(name):
    assert load_vdm_config(name) == VDM_PRESETS[name]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"colour": 1}, "colour.*VDMModel takes no such argument"),
        ({"patch_size": 3}, "patch_size=3 does not divide the side of 8"),
        ({"prediction_type": "x"}, "prediction_type='x'"),
        ({"unet_config": {"block_out_channels": "a"}}, "cannot be built"),
        ({"gamma": "linear"}, "gamma='linear'"),
    ],
)
def test_configs_that_do_not_build_are_one_line(changes, words):
    with pytest.raises(HfgenError, match=words):
        build_vdm({"unet_config": UNET, **changes}, resolution=8, channels=1)
