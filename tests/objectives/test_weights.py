"""Weights of the squared error of x_0 on values worked out by hand."""

import pytest
import torch
from diffusers import DDPMScheduler

from hfgen.objectives import weights
from hfgen.process import PARAMETERIZATIONS, GaussianProcess, ReverseProcess

# alpha_bar = 0.9, 0.45, 0.045: SNR = 9, 9/11, 9/191
BETA = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
SNR = [9, 9 / 11, 9 / 191]


def process(prediction="epsilon", variance="fixed_small", betas=BETA):
    return ReverseProcess(
        forward=GaussianProcess.from_betas(betas),
        parameterization=PARAMETERIZATIONS[prediction],
        variance_type=variance,
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("snr", SNR),
        ("truncated_snr", [9, 1, 1]),
        ("min_snr", [5, 9 / 11, 9 / 191]),
    ],
)
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction", "mu"])
def test_by_hand(name, expected, prediction):
    assert weights.WEIGHTS[name](process(prediction)).tolist() == pytest.approx(expected)


def test_min_snr_gamma():
    assert weights.min_snr(process(), gamma=0.5).tolist() == pytest.approx([0.5, 0.5, 9 / 191])


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("epsilon", SNR),
        ("sample", [1, 1, 1]),
        ("v_prediction", [1 / 0.1, 1 / 0.55, 1 / 0.955]),
        # (sqrt(alpha_bar_{t-1}) beta_t / (1 - alpha_bar_t))^2
        ("mu", [1, 0.9 * 0.25 / 0.55**2, 0.45 * 0.81 / 0.955**2]),
    ],
)
def test_simple_is_1_on_the_prediction(prediction, expected):
    model = process(prediction)
    assert weights.simple(model).tolist() == pytest.approx(expected)
    assert weights.on_prediction(model, weights.simple(model)).tolist() == pytest.approx([1, 1, 1])


def test_vlb_is_the_difference_of_snr():
    expected = [3 / 2 * (SNR[0] - SNR[1]), 3 / 2 * (SNR[1] - SNR[2])]
    assert weights.vlb(process()).tolist()[1:] == pytest.approx(expected)
    # beta_tilde_2 = 0.1 / 0.55 * 0.5 stands in at t = 1
    assert weights.vlb(process())[0].item() == pytest.approx(3 / 2 / (0.1 / 0.55 * 0.5))


def test_vlb_of_epsilon_has_the_weight_of_ho_et_al():
    """beta^2 / (2 sigma^2 alpha (1 - alpha_bar)), sigma^2 = beta: equation 12."""
    model = process(variance="fixed_large")
    alpha_bar = [0.9, 0.45, 0.045]
    expected = [3 * b / (2 * (1 - b) * (1 - a)) for b, a in zip(BETA.tolist(), alpha_bar, strict=True)]
    assert weights.on_prediction(model, weights.vlb(model)).tolist()[1:] == pytest.approx(expected[1:])


@pytest.mark.parametrize("prediction", ["sample", "v_prediction"])
@pytest.mark.parametrize("name", list(weights.WEIGHTS))
def test_finite_with_zero_terminal_snr(prediction, name):
    betas = DDPMScheduler(50, rescale_betas_zero_snr=True, beta_end=0.3).betas
    model = process(prediction, betas=betas)
    on_prediction = weights.on_prediction(model, weights.WEIGHTS[name](model))
    assert on_prediction.isfinite().all()
    assert on_prediction.ge(0).all()
