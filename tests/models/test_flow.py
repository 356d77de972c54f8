"""Coupling flows against what can be known of them otherwise: Jacobians, integrals, closed forms."""

import copy
import math

import pytest
import torch
from torch.distributions import AffineTransform, Normal, SigmoidTransform, TransformedDistribution

from hfgen.core.errors import HfgenError
from hfgen.core.media import to_model_range
from hfgen.data.loading import ImagesInMemory
from hfgen.likelihood.flow import dequantization_bounds
from hfgen.models.flow_presets import build_flow
from hfgen.models.modeling_hfgen_flow import LEAST_SLOPE, LEVELS, LOGIT_SCALE, MARGIN, UNSEEN, FlowModel, join, part

SMALL = {"sample_size": 4, "scales": 1, "channels": 6, "layers": 1, "top_features": 8, "top_groups": 3}
KINDS = [
    {"coupling": "spline"},
    {"coupling": "spline", "in_channels": 3, "scales": 2},
    {"coupling": "spline", "in_channels": 2, "halvings": 2},
    {"coupling": "affine", "rounds": 2},
    {"coupling": "affine", "rounds": 1, "in_channels": 3, "dequantization": "variational"},
]


def flow(std=0.3, **changes):
    """With weights that are not those of the identity."""
    torch.manual_seed(0)
    model = FlowModel(**{**SMALL, **changes})
    for name, parameter in model.named_parameters():
        last = name.endswith(
            ("conv_out.weight", "conv_out.bias", "out.weight", "out.bias", "context.bias", "elementwise")
        )
        torch.nn.init.normal_(parameter, std=std) if last or "place" in name else None
    return model.eval()


def values(model, count=3):
    """On [0, 1], with both ends among them."""
    u = torch.rand(count, *model.shape, generator=torch.Generator().manual_seed(1))
    u[0, :, 0], u[-1, :, -1] = 0, 1 - 2**-20
    return u


def test_squares_are_parted_and_joined():
    x = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    parted = part(x, 1)
    assert torch.equal(parted[:, :3], x[:, :, ::2, ::2])
    assert torch.equal(parted[:, 6:9], x[:, :, ::2, 1::2])
    assert torch.equal(join(parted, 1), x)
    x = torch.arange(2 * 3 * 8 * 12.0).view(2, 3, 8, 12)
    again = part(x, 2)
    assert torch.equal(again[:, :3], x[:, :, ::4, ::4])
    assert torch.equal(again[:, 3:6], x[:, :, 2::4, 2::4])
    assert torch.equal(again[:, 12:15], x[:, :, 1::4, 1::4])
    assert torch.equal(join(again, 2), x)


def test_images_of_a_scale_are_changed_by_what_those_before_them_show():
    model = flow(halvings=2)
    u = values(model, 1)
    latents = part(model.encode(u)[0], 2)[0, :, 0, 0].detach()
    seen = 0
    for changed in range(16):
        other = part(u, 2)
        other[0, changed] = 1 - other[0, changed]
        found = part(model.encode(join(other, 2))[0], 2)[0, :, 0, 0].detach()
        assert found[:changed].equal(latents[:changed])
        assert found[changed] != latents[changed]
        seen += (found != latents)[changed + 1 :].sum().item()
    assert seen > 60  # of 120 pairs: small networks have units that are off


@pytest.mark.parametrize("changes", KINDS)
def test_it_is_invertible(changes):
    """To 1e-4 in single precision, as is promised, which is less than a twentieth of a grey level; and to rounding in double."""
    model = flow(**changes)
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-9)):
        model, u = model.to(dtype), values(model).to(dtype)
        with torch.no_grad():
            latents, _ = model.encode(u)
            assert (model.decode(latents) - u).abs().max() < tolerance
            again = model.latents_of(model.normal_of(latents))
        assert (again - latents).abs().max() < tolerance


@pytest.mark.parametrize("changes", KINDS)
def test_the_log_determinant_is_that_of_the_jacobian(changes):
    model = flow(**changes).double()
    u = (0.01 + 0.98 * values(model, 1)).double()
    size = u.numel()
    jacobian = torch.autograd.functional.jacobian(lambda v: model.encode(v)[0], u).view(size, size)
    sign, log_det = torch.linalg.slogdet(jacobian)
    assert sign == 1
    torch.testing.assert_close(model.encode(u)[1][0], log_det, rtol=1e-9, atol=1e-9)


def test_the_density_integrates_to_one():
    """Of 2x2 pixels in four pieces each, summed over the middles of all cells: within a cell the last of them is constant."""
    model = flow(std=1.0, sample_size=2, knots=(0, 64, 128, 192, 256)).double()
    middles = (torch.arange(4, dtype=torch.float64) + 0.5) / 4
    u = torch.cartesian_prod(*[middles] * 4).view(-1, 1, 2, 2)
    with torch.no_grad():
        density = model.log_prob(u).exp() * 64.0**4
    assert density.std() > 0.01
    assert density.sum().item() == pytest.approx(1, abs=1e-12)


def test_without_couplings_it_is_a_gaussian_of_logits():
    """The closed form of one affine layer, by torch's own transforms."""
    model = flow(coupling="affine", rounds=0, scales=0).double()
    u = values(model).double()
    shift, log_scale = model.elementwise.detach()
    one = TransformedDistribution(
        Normal(torch.zeros_like(shift), torch.ones_like(shift)),
        [
            AffineTransform(0, 1 / LOGIT_SCALE),
            AffineTransform(-shift * (-log_scale).exp(), (-log_scale).exp()),
            SigmoidTransform(),
            AffineTransform(-MARGIN / (1 - 2 * MARGIN), 1 / (1 - 2 * MARGIN)),
        ],
        validate_args=False,
    )
    expected = (one.log_prob(u) - math.log(LEVELS)).flatten(1).sum(1)
    torch.testing.assert_close(model.log_prob(u).detach(), expected, rtol=1e-9, atol=1e-6)


def test_a_new_spline_has_the_entropy_of_the_histogram_that_it_starts_from():
    counts = torch.tensor([400.0, *[2.0] * 254, 90.0])
    model = FlowModel(**SMALL, knots=tuple(range(LEVELS + 1)))
    model.start_from(counts.view(-1, 1, 1, 1).expand(-1, 1, 4, 4))
    pixels = torch.randint(0, LEVELS, (5, 1, 4, 4), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    shares = (counts + UNSEEN) / (counts + UNSEEN).sum()
    shares = (1 - LEAST_SLOPE) * shares + LEAST_SLOPE / LEVELS
    expected = shares.log()[pixels.long()].flatten(1).sum(1)
    noise = torch.rand(pixels.shape)
    torch.testing.assert_close(model(to_model_range(pixels), noise).detach(), expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("dequantization", ["uniform", "variational"])
def test_bounds_of_a_pixel_meet_its_probability(dequantization):
    """p(value) of one pixel is a difference of the normal distribution function; many weighted noises come near to it."""
    model = flow(sample_size=1, scales=0, coupling="affine", rounds=0, dequantization=dequantization)
    if model.noise is not None:  # wide enough to reach all of a pixel's noise
        torch.nn.init.zeros_(model.noise.conv_out.weight)
        model.noise.conv_out.bias.data = torch.tensor([0.3, 1.2])
    pixels = torch.tensor([0, 3, 100, 255], dtype=torch.uint8).view(-1, 1, 1, 1)
    edges = torch.stack([pixels, pixels + 1.0]).double() / LEVELS
    with torch.no_grad():
        latents = [copy.deepcopy(model).double().encode(edge)[0] for edge in edges]
        exact = -(Normal(0.0, 1.0).cdf(latents[1]) - Normal(0.0, 1.0).cdf(latents[0])).log().flatten()
    images, variational = ImagesInMemory(pixels), dequantization == "variational"
    found = [dequantization_bounds(model, images, variational=variational, num_samples=k) for k in (1, 800)]
    elbo, weighted = found[1].values.unbind(1)
    assert (elbo >= weighted).all()
    # the deviation of a weight is below 3, that of a mean of 800 below 0.11
    torch.testing.assert_close(weighted, exact, rtol=0, atol=0.2)
    assert not torch.allclose(elbo, exact, atol=1e-3)
    assert found[0].values[:, 0].tolist() == found[0].values[:, 1].tolist()


def test_bounds_do_not_depend_on_the_batch():
    model = flow()
    images = ImagesInMemory(torch.randint(0, 256, (5, 1, 4, 4), generator=torch.Generator().manual_seed(0)).byte())
    first, second = (
        dequantization_bounds(model, images, variational=False, num_samples=3, batch_size=size) for size in (2, 5)
    )
    torch.testing.assert_close(first.values, second.values, rtol=1e-6, atol=1e-5)
    with pytest.raises(HfgenError, match="num_samples=0"):
        dequantization_bounds(model, images, variational=False, num_samples=0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"coupling": "cubic"}, "coupling='cubic': choose one of spline, affine"),
        ({"scales": 4}, "resolution=4 cannot be halved 4 times, as this flow does: .*or a config that halves it less"),
        ({"scales": 2, "halvings": 2}, "resolution=4 cannot be halved 4 times"),
        ({"halvings": 3}, "halvings=3: a whole number from 1 to 2"),
        ({"halvings": 2, "coupling": "affine"}, "halvings=2: affine couplings are of four images, use 1"),
        ({"channels": 0}, "channels=0: a whole number from 1"),
        ({"layers": 10**9}, "layers=1000000000"),
        ({"knots": [0, 5, 5, 256]}, "increase from 0 to 256"),
        ({"knots": "x"}, "increase from 0 to 256"),
        ({"depth": 3}, "has depth: FlowModel takes no such argument"),
        ({"channels": 2**15, "layers": 9}, "GiB of memory"),
    ],
)
def test_what_cannot_be_built_is_one_line(changes, words):
    with pytest.raises(HfgenError, match=words):
        build_flow({**SMALL, **changes}, 4, 1)


def test_a_side_that_no_scale_can_halve_is_told_with_one_that_can_be():
    with pytest.raises(HfgenError, match=r"resolution=7 cannot be halved 2 times, as this flow does.*--resolution 8"):
        build_flow({**SMALL, "scales": 2}, 7, 1)
