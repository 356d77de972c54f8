"""Bounds of networks that are told classes: each row its own, in whatever batches."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler

from hfgen.core.resume import Resumable
from hfgen.data.loading import ImagesInMemory
from hfgen.likelihood import exact_vlb, sampled_vlb
from hfgen.likelihood.vdm import vdm_bound
from hfgen.process.variational import bin_centres
from hfgen.schedulers import reverse_process

STEPS = 8
VALUES = torch.tensor([[[[10]]], [[[200]]], [[[90]]]], dtype=torch.uint8).expand(-1, 1, 2, 2).contiguous()
LABELS = torch.tensor([2, 0, 1, 1, 0, 2, 2])
IMAGES = ImagesInMemory(VALUES[LABELS])


class Knows:
    """Predicts x_0: of a class that it is told its only image, else their mean."""

    device, dtype = torch.device("cpu"), torch.float32

    def eval(self):
        return self

    def __call__(self, x_t, timesteps, class_labels=None):
        assert class_labels is None or len(class_labels) == len(x_t)
        pixels = VALUES.float() / 127.5 - 1
        known = pixels.mean(0, keepdim=True).expand(len(x_t), -1, -1, -1)
        return SimpleNamespace(sample=known if class_labels is None else pixels[class_labels])


def process():
    return reverse_process(DDPMScheduler(STEPS, 0.01, 0.5, prediction_type="sample", variance_type="fixed_small"))


def exact(labels, batch_size):
    return exact_vlb(Knows(), process(), IMAGES, labels=labels, batch_size=batch_size)


def sampled(labels, batch_size):
    return sampled_vlb(Knows(), process(), IMAGES, evaluations=200, labels=labels, batch_size=batch_size)


@pytest.mark.parametrize("bound", [exact, sampled])
@pytest.mark.parametrize("batch_size", [3, 64])
def test_who_knows_the_image_by_its_class_needs_no_diffusion(bound, batch_size):
    """q(x_{t-1} | x_t, x_0) with the true x_0 is the model's own step: each KL is 0, to the rounding of float32 outputs."""
    told = bound(LABELS, batch_size)
    assert told.diffusion.mean == pytest.approx(0, abs=1e-9)
    wrong, withheld = bound((LABELS + 1) % 3, batch_size), bound(None, batch_size)
    assert wrong.diffusion.mean > withheld.diffusion.mean > 1
    assert told.prior == wrong.prior
    assert told.total.mean < withheld.total.mean


class Line:
    """gamma from -8 to 4."""

    def ends(self, dtype=torch.float64):
        return torch.tensor(-8.0, dtype=dtype), torch.tensor(4.0, dtype=dtype)

    def rate(self, t):
        return torch.full_like(t, 12.0)

    def __call__(self, t):
        return -8 + 12 * t


def predict(z, gamma, class_labels=None):
    """The noise, exactly, of a class that it is told."""
    f = bin_centres(VALUES.double())
    f = f.mean(0, keepdim=True).expand(len(z), -1, -1, -1) if class_labels is None else f[class_labels]
    gamma = gamma.double().view(-1, 1, 1, 1)
    return ((z.double() - torch.sigmoid(-gamma).sqrt() * f) / torch.sigmoid(gamma).sqrt()).float()


@pytest.mark.parametrize("num_steps", [None, 5])
@pytest.mark.parametrize("batch_size", [2, 64])
def test_the_same_in_continuous_time(num_steps, batch_size):
    """The error of the noise is 0 to the rounding of z in float32, whose part of the bound is weighed by gamma' / 2 = 6."""

    def bound(labels):
        return vdm_bound(
            predict, Line(), IMAGES, evaluations=70, labels=labels, num_steps=num_steps, batch_size=batch_size
        )

    told, withheld = bound(LABELS), bound(None)
    assert told.diffusion.mean == pytest.approx(0, abs=1e-6)
    assert bound((LABELS + 1) % 3).diffusion.mean > withheld.diffusion.mean > 1
    assert told.reconstruction == withheld.reconstruction


def test_work_of_one_kind_is_kept_apart(tmp_path):
    first = Resumable(tmp_path / "work", {})
    second = first.under("conditional")
    first.save("sampled", {"x": torch.zeros(1)})
    assert second.load("sampled") is None
    second.save("sampled", {"x": torch.ones(1)})
    again = Resumable(tmp_path / "work", {})
    assert again.load("sampled")["x"] == 0
    assert again.under("conditional").load("sampled")["x"] == 1
