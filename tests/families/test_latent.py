"""Diffusion models of latents: trained, stock, sampled as stock diffusers does, and their bounds against a closed form."""

import math
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline
from diffusers.models.unets.unet_2d import UNet2DOutput
from latent_repositories import autoencoder, run, save_autoencoder

import hfgen
from hfgen.core.errors import HfgenError
from hfgen.core.media import to_model_range
from hfgen.core.random import seeded
from hfgen.data.evaluation_images import EvaluationImages
from hfgen.data.loading import ImagesInMemory
from hfgen.families.base import LikelihoodSettings
from hfgen.families.latent.bound import draw_latents
from hfgen.families.registry import get_family
from hfgen.hub.files import repository_files
from hfgen.likelihood import sampled_vlb
from hfgen.likelihood.vdm import vdm_bound
from hfgen.schedulers import reverse_process
from hfgen.schedulers.noise import noise_scheduler

KINDS = {
    "latent_ddpm": ("ddpm", "unet", {}),
    "dit": ("ddpm", "dit", {"class_conditional": True}),
    "latent_vdm": ("vdm", "vdm", {}),
}
STOCK = {"latent_ddpm": "LDMPipeline", "dit": "DiTPipeline", "latent_vdm": "LDMPipeline"}


@pytest.fixture(scope="module")
def vae_folder(tmp_path_factory):
    return save_autoencoder(tmp_path_factory.mktemp("latent") / "autoencoder")


@pytest.fixture(scope="module")
def folders(vae_folder):
    return {
        name: run(vae_folder.with_name(name), family, network, autoencoder=vae_folder, **flags)
        for name, (family, network, flags) in KINDS.items()
    }


def arguments(name, count):
    return (
        {"class_labels": [i % 10 for i in range(count)], "guidance_scale": 1.7}
        if name == "dit"
        else {"batch_size": count}
    )


@pytest.mark.parametrize("name", KINDS)
def test_stock_diffusers_draws_the_same_pictures(folders, name):
    """By DDIM, which draws no noise of its own: of the same x_T."""
    model, stock = hfgen.load(folders[name]), DiffusionPipeline.from_pretrained(folders[name])
    assert model.family.name == name
    assert type(stock).__name__ == STOCK[name]
    stock.scheduler = DDIMScheduler.from_config(stock.scheduler.config, timestep_spacing="trailing")
    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    wanted = stock(**arguments(name, 3), generator=generators, num_inference_steps=5, output_type="np").images
    model.pipeline.scheduler = stock.scheduler
    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    found = model.pipeline(**arguments(name, 3), generator=generators, num_inference_steps=5, output_type="np").images
    assert found.shape == (3, 8, 8, 1)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_it_is_sampled_evaluated_and_described(folders, name):
    model = hfgen.load(folders[name])
    assert model.image_shape == (1, 8, 8)
    options = {"scheduler": "ddim", "steps": 3}
    both, one = (
        hfgen.sample(model, num_images=n, batch_size=b, trajectory=n == 2, **options) for n, b in ((2, 2), (1, 1))
    )
    assert both.trajectory.shape[2:] == (1, 8, 8)
    # of another batch a pixel may differ by rounding
    assert (both.images[:1].int() - one.images.int()).abs().max() <= 1
    result = hfgen.evaluate(model, hfgen.EvaluationConfig(max_images=12, options={"evaluations": 240}))
    metrics = result.metrics
    parts = ("reconstruction", "entropy", "prior", "diffusion", "decoder")
    assert metrics["vlb_total"].mean == pytest.approx(sum(metrics[f"vlb_{part}"].mean for part in parts))
    assert metrics["vlb_total_bits_per_dim"].mean == pytest.approx(metrics["vlb_total"].mean / (64 * math.log(2)))
    assert ("conditional_vlb_total" in metrics) == (name == "dit")
    assert result.likelihood.quantity == "log-likelihood of 8-bit pixels"
    card = (folders[name] / "README.md").read_text()
    assert STOCK[name] in card
    assert "trust_remote_code" not in card


def test_the_repository_has_the_autoencoder_and_its_likelihood(folders, vae_folder):
    own = AutoencoderKL.from_pretrained(vae_folder, subfolder="vae")
    for name, slot in (("latent_ddpm", "vqvae"), ("dit", "vae"), ("latent_vdm", "vqvae")):
        found = AutoencoderKL.from_pretrained(folders[name], subfolder=slot)
        assert found.config["_hfgen_likelihood"] == own.config["_hfgen_likelihood"]
        assert all(a.equal(b) for a, b in zip(found.parameters(), own.parameters(), strict=True))
        published = {path.as_posix() for path in repository_files(folders[name], hfgen.load(folders[name])).pushed}
        assert {f"{slot}/config.json", f"{slot}/diffusion_pytorch_model.safetensors", "README.md"} <= published
        assert "_name_or_path" not in (folders[name] / slot / "config.json").read_text()


STRANGER = """
import sys
sys.modules["hfgen"] = None  # an import of it fails
from diffusers import AutoencoderKL, DiffusionPipeline
vae, *folders = sys.argv[1:]
print(AutoencoderKL.from_pretrained(vae, subfolder="vae").config.scaling_factor)
for folder in folders:
    pipeline = DiffusionPipeline.from_pretrained(folder)
    told = {"class_labels": pipeline.get_label_ids(["3"])} if hasattr(pipeline, "labels") else {}
    print(type(pipeline).__name__, pipeline(**told, num_inference_steps=2).images[0].size)
"""


@pytest.mark.slow
def test_a_stranger_without_hfgen_loads_and_runs_each(folders, vae_folder):
    command = [sys.executable, "-W", "error::UserWarning", "-c", STRANGER, vae_folder, *folders.values()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:4] == ["1.7", *(f"{kind} (8, 8)" for kind in STOCK.values())]
    assert "ignored" not in done.stderr


def test_an_absolute_error_has_no_bound(folders):
    pipeline = hfgen.load(folders["latent_ddpm"]).pipeline
    pipeline.vqvae = autoencoder()
    data = EvaluationImages(
        images=ImagesInMemory(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)), labels=None, class_names=[]
    )
    family = get_family("latent_ddpm")
    with pytest.raises(HfgenError, match="was not trained by a likelihood of pixels"):
        family.likelihood(pipeline, data, LikelihoodSettings(options=family.likelihood_options()))


# -- the bound of a linear-Gaussian model, whose log-likelihood is known


class Linear:
    """x = A z + noise of deviation s, z ~ N(0, I), of 4 pixels and 2 latents; q(z|x) is the posterior, or what is put in its place."""

    device, dtype = torch.device("cpu"), torch.float64

    def __init__(self, scaling_factor=0.6, spread=1.0, shift=0.0):
        self.config = SimpleNamespace(
            scaling_factor=scaling_factor, shift_factor=0.25, in_channels=1, latent_channels=2
        )
        self.a = torch.randn(4, 2, generator=seeded("cpu", 7), dtype=torch.float64)
        self.s = 0.5
        # a rotation of z makes the posterior's factors independent, as those of an autoencoder are
        self.a = torch.linalg.svd(self.a, full_matrices=False)[0] * torch.tensor([1.4, 0.6], dtype=torch.float64)
        precision = torch.eye(2, dtype=torch.float64) + self.a.T @ self.a / self.s**2
        self.variance = spread / precision.diagonal()
        self.gain, self.shift = (self.a / self.s**2 / precision.diagonal()).T, shift

    def encode(self, x):
        mean = x.double().flatten(1) @ self.gain.T + self.shift
        std = self.variance.sqrt().expand_as(mean)
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=mean.view(-1, 2, 1, 1), std=std.reshape(-1, 2, 1, 1)))

    def decode(self, z):
        return SimpleNamespace(sample=(z.double().flatten(1) @ self.a.T).view(-1, 1, 2, 2))

    def nats(self, x, decoded):
        square = (x - decoded).square().flatten(1).sum(1)
        return 0.5 * (square / self.s**2 + 4 * math.log(2 * math.pi * self.s**2))

    def exact(self, x):
        covariance = self.a @ self.a.T + self.s**2 * torch.eye(4, dtype=torch.float64)
        return -torch.distributions.MultivariateNormal(torch.zeros(4).double(), covariance).log_prob(
            x.double().flatten(1)
        )

    def prior(self):
        """Mean and variance of the scaled z."""
        return -0.25 * self.config.scaling_factor, self.config.scaling_factor**2


def optimal_v(model, alpha, sigma, z_t):
    """v of the posterior mean of a z ~ N(m, s2), of z_t = alpha z + sigma eps."""
    m, s2 = model.prior()
    z = m + s2 * alpha / (alpha**2 * s2 + sigma**2) * (z_t - alpha * m)
    return alpha * (z_t - alpha * z) / sigma - sigma * z


class Denoiser:
    device, dtype = torch.device("cpu"), torch.float64

    def __init__(self, model, process):
        self.model, self.forward = model, process.forward

    def eval(self):
        return self

    def __call__(self, x_t, timesteps):
        alpha, sigma = (
            (f(self.forward.gamma[timesteps])).sqrt().view(-1, 1, 1, 1)
            for f in (lambda g: torch.sigmoid(-g), torch.sigmoid)
        )
        return UNet2DOutput(sample=optimal_v(self.model, alpha, sigma, x_t))


class Line:
    """A schedule from -8 to 8, so that what lies beyond its ends is nothing."""

    def ends(self, dtype=torch.float64):
        return torch.tensor(-8.0, dtype=dtype), torch.tensor(8.0, dtype=dtype)

    def rate(self, t):
        return torch.full_like(t, 16.0)

    def __call__(self, t):
        return 16 * t - 8


def continuous(model, z):
    def predict(z_t, gamma):
        alpha, sigma = (torch.sigmoid(sign * gamma).sqrt().view(-1, 1, 1, 1) for sign in (-1, 1))
        return optimal_v(model, alpha, sigma, z_t)

    return vdm_bound(
        predict, Line(), z, prediction_type="v_prediction", continuous=True, evaluations=40_000, batch_size=20_000
    )


def chain(model, z):
    process = replace(reverse_process(noise_scheduler("linear", 1000, "v_prediction", "fixed_large")), continuous=True)
    return sampled_vlb(Denoiser(model, process), process, z, evaluations=60_000, batch_size=20_000)


# one and the same, so that errors are those of the noise
IMAGES = torch.tensor([12, 240, 128, 60], dtype=torch.uint8).view(1, 1, 2, 2).repeat(500, 1, 1, 1)


def bound(model, of_latents):
    data = EvaluationImages(images=ImagesInMemory(IMAGES), labels=None, class_names=[])
    drawn = draw_latents(model, model, data, seed=0, batch_size=None)
    return drawn.bound(of_latents(model, drawn.z))


@pytest.mark.parametrize("scaling_factor", [0.6, 3.0])
@pytest.mark.parametrize(("of_latents", "gap"), [(continuous, 0.01), (chain, 0.03)])
def test_the_bound_of_the_right_posterior_and_prior_is_the_log_likelihood(of_latents, gap, scaling_factor):
    """-log p(x) of a linear-Gaussian model, whatever the scale of z. `gap`: what a chain of 1,000 steps loses, and the ends of gamma."""
    model = Linear(scaling_factor)
    found = bound(model, of_latents).total
    exact = model.exact(to_model_range(IMAGES)).mean().item()
    assert found.mean == pytest.approx(exact, abs=gap + 4 * found.standard_error)
    assert found.standard_error < 0.1


@pytest.mark.parametrize(("spread", "shift"), [(2.0, 0.0), (1.0, 0.3)])
def test_another_posterior_costs_its_divergence(spread, shift):
    """-log p(x) + KL(q || the posterior): 1/2 sum [r - 1 - ln r + d^2 / v] for q's variances r times too wide and means off by d."""
    right, wrong = Linear(), Linear(spread=spread, shift=shift)
    found = bound(wrong, continuous).total
    divergence = 0.5 * (2 * (spread - 1 - math.log(spread)) + (shift**2 / right.variance).sum().item())
    exact = right.exact(to_model_range(IMAGES)).mean().item()
    assert found.mean == pytest.approx(exact + divergence, abs=0.01 + 4 * found.standard_error)


# -- what cannot be


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"autoencoder": "no/thing/here"}, "cannot be loaded"),
        ({"prediction_type": "mu"}, "prediction_type=mu with --autoencoder"),
        ({"ddpm_variance_type": "learned_range"}, "take no learned variance"),
        ({"resolution": 9}, "does not divide that side, use a multiple such as --resolution 8"),
        ({"class_conditional": True, "label_column": "image"}, "label_column|class"),
    ],
)
def test_flags_that_cannot_be(tmp_path, vae_folder, flags, words):
    given = {"autoencoder": vae_folder, "max_train_steps": 1, **flags}
    with pytest.raises(HfgenError, match=words):
        run(tmp_path / "out", "ddpm", **given)
    assert not (tmp_path / "out").exists()
