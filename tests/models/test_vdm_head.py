"""The mixture head of variational diffusion models against integrals over f."""

import math

import pytest
import torch

from hfgen.models.modeling_hfgen_vdm import LAST_CENTRE, MixtureHead, VDMModel

GAUSSIANS = 2


def head_and_output():
    """A head for 2 channels, with means and deviations of all sizes that a sum over a grid can follow."""
    torch.manual_seed(0)
    head = MixtureHead(2, GAUSSIANS)
    for parameter in head.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    output = 0.5 * torch.randn(3, head.channels, 4, 4)
    output[:, head.channels // 2 - 1 :: head.channels // 2] = 0.0  # what the network adds itself
    return head, output


def distributions(head, output):
    """Probabilities, means and deviations of each pixel's parts, float64 (parts, B, C, H, W)."""
    parts = GAUSSIANS + 2
    of_channel = output.double().view(3, 2, -1, 4, 4).movedim(2, 0)
    shape = (-1, 1, 1, 1, 1)
    weights = (of_channel[:parts] + head.logits.double().view(shape)).softmax(0)
    means = of_channel[parts : parts + GAUSSIANS] + head.means.double().view(shape)
    deviations = (of_channel[parts + GAUSSIANS : -1] + head.log_deviations.double().view(shape)).exp()
    return weights, means, deviations


@pytest.mark.parametrize("gamma", [-4.0, -1.0, 3.0])
def test_it_is_the_posterior_mean_of_the_noise(gamma):
    """E[eps | z] by a sum over f: the two atoms, and 8,001 places that follow deviations above 0.05 to rounding."""
    head, output = head_and_output()
    z = torch.randn(3, 2, 4, 4)
    gammas = torch.full((3,), gamma)
    found = head(z, gammas, output).detach()
    alpha, sigma = (math.sqrt(1 / (1 + math.exp(sign * gamma))) for sign in (1, -1))
    weights, means, deviations = distributions(head, output)

    grid = torch.linspace(-8, 8, 8001, dtype=torch.float64).view(-1, 1, 1, 1, 1)
    normal = sum(
        weight * torch.exp(-0.5 * ((grid - mean) / deviation) ** 2) / (deviation * math.sqrt(2 * math.pi))
        for weight, mean, deviation in zip(weights[2:], means, deviations, strict=True)
    )
    f = torch.cat([torch.tensor([-LAST_CENTRE, LAST_CENTRE]).double().view(-1, 1, 1, 1, 1), grid])
    noise = (z.double() - alpha * f) / sigma
    mass = torch.cat([weights[:2], normal * (16 / 8000)]) * (-0.5 * noise.square()).exp()
    total, moment = mass.sum(0), (mass * noise).sum(0)
    torch.testing.assert_close(found.double(), moment / total, rtol=1e-4, atol=1e-5)


def test_what_the_network_says_itself_is_added():
    head, output = head_and_output()
    z, gamma = torch.randn(3, 2, 4, 4), torch.tensor([-13.3, -3.0, 5.0])
    before = head(z, gamma, output)
    per_channel = head.channels // 2
    output[:, per_channel - 1] += 0.25
    torch.testing.assert_close(head(z, gamma, output)[:, 0], before[:, 0] + 0.25)
    torch.testing.assert_close(head(z, gamma, output)[:, 1], before[:, 1])


def test_a_pixel_of_a_known_value_leaves_its_noise_alone():
    """Of an image whose pixels are surely dark eps_hat is eps at every noise level, to float32."""
    head, output = head_and_output()
    output[:, [0, head.channels // 2]] = 80.0
    noise, gamma = torch.randn(3, 2, 4, 4), torch.tensor([-13.3, -3.0, 5.0])
    alpha, sigma = (torch.sigmoid(sign * gamma).sqrt().view(-1, 1, 1, 1) for sign in (-1, 1))
    z = sigma * noise - alpha * LAST_CENTRE
    # 1e-7 of rounding in z over a sigma of 0.0013
    torch.testing.assert_close(head(z, gamma, output), noise, rtol=0, atol=1e-3)


@pytest.mark.parametrize("gamma", [-20.0, -13.3, 0.0, 12.0])
def test_its_gradients_are_finite(gamma):
    head, output = head_and_output()
    output = (20 * output).requires_grad_()
    z = (3 * torch.randn(3, 2, 4, 4)).requires_grad_()
    head(z, torch.full((3,), gamma), output).square().sum().backward()
    for tensor in (z, output, *head.parameters()):
        assert tensor.grad.isfinite().all()


def test_an_untrained_model_begins_with_it():
    unet = {
        "block_out_channels": [8],
        "down_block_types": ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"],
        "norm_num_groups": 4,
    }
    model = VDMModel(
        sample_size=4, mixture=3, patch_size=2, fine_channels=4, unet_config={**unet, "add_attention": False}
    ).eval()
    z, gamma = torch.randn(2, 1, 4, 4), torch.tensor([-8.0, 1.0])
    nothing = torch.zeros(2, model.head.channels, 4, 4)
    torch.testing.assert_close(model(z, gamma).sample, model.head(z, gamma, nothing))


def test_v_has_no_mixture():
    with pytest.raises(ValueError, match=r"mixture=2 with prediction_type='v_prediction'"):
        VDMModel(mixture=2, prediction_type="v_prediction")
