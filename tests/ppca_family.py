"""Probabilistic PCA as a family of its own: x = W z + mu + sigma eps, z ~ N(0, I). All that hfgen needs stands in this file.

Its likelihood is known: x ~ N(mu, W W^T + sigma^2 I). Source: Tipping & Bishop 1999, equations 2 to 4.
"""

from __future__ import annotations

import inspect
import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from diffusers import ConfigMixin, DiffusionPipeline, ImagePipelineOutput, ModelMixin
from diffusers.configuration_utils import register_to_config

from hfgen.configs.flags import POSITIVE, flag
from hfgen.core.media import image_grid, save_png, to_model_range, unit_to_uint8
from hfgen.data.batch import RandomSpec
from hfgen.families.base import PREVIEWS, Card, Family, OneOptimizer
from hfgen.results import LikelihoodResult, Metric

CLASS, MODULE = "PPCAPipeline", "ppca_family"


class PPCAModel(ModelMixin, ConfigMixin):
    """The parameters W (D, latent_size), mu (D,) and log sigma^2."""

    @register_to_config
    def __init__(self, in_channels: int = 1, sample_size: int = 8, latent_size: int = 2):
        super().__init__()
        dimensions = in_channels * sample_size**2
        self.W = torch.nn.Parameter(0.1 * torch.randn(dimensions, latent_size))
        self.mu = torch.nn.Parameter(torch.zeros(dimensions))
        self.log_variance = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x):
        """log p(x) in nats, (B,), of (B, C, H, W): by the q x q matrix M = W^T W + sigma^2 I."""
        W, variance = self.W, self.log_variance.exp()
        centred = x.flatten(1) - self.mu
        size, latents = W.shape
        M = W.T @ W + variance * torch.eye(latents, dtype=W.dtype, device=W.device)
        projected = centred @ W
        square = (centred.square().sum(1) - (projected @ torch.linalg.inv(M) * projected).sum(1)) / variance
        log_determinant = torch.logdet(M) + (size - latents) * self.log_variance
        return -0.5 * (square + log_determinant + size * math.log(2 * math.pi))


class PPCAPipeline(DiffusionPipeline):
    """Draws from the model."""

    def __init__(self, model):
        super().__init__()
        self.register_modules(model=model)

    @torch.no_grad()
    def __call__(self, batch_size=1, generators=None, output_type="pt"):
        """mu + W z, values in [0, 1]."""
        model, config = self.model, self.model.config
        z = torch.stack([torch.randn(config.latent_size, generator=g) for g in generators or [None] * batch_size])
        x = (z.to(model.W) @ model.W.T + model.mu).view(-1, config.in_channels, config.sample_size, config.sample_size)
        return ImagePipelineOutput(images=(x / 2 + 0.5).clamp(0, 1))

    def save_pretrained(self, save_directory, **kwargs):
        """With this file beside it."""
        super().save_pretrained(save_directory, **kwargs)
        folder = Path(save_directory)
        index = json.loads((folder / self.config_name).read_text())
        (folder / self.config_name).write_text(json.dumps({**index, "_class_name": [MODULE, CLASS]}, indent=2))
        for place in (folder, folder / "model"):
            shutil.copyfile(inspect.getsourcefile(type(self)), place / f"{MODULE}.py")


@dataclass(frozen=True, kw_only=True)
class PPCAFlags:
    """What is its own to choose."""

    latent_size: int = flag(2, "dimensions of z", range=POSITIVE)


@dataclass(frozen=True, kw_only=True)
class PPCASampling:
    """What can be chosen of its samples."""

    temperature: float = flag(1.0, "standard deviation of z", range=POSITIVE)


@dataclass(frozen=True, kw_only=True)
class PPCATask(OneOptimizer):
    """Maximum likelihood: the loss is the exact one."""

    shape: tuple[int, ...]
    terms = ("loss",)
    ylabel = "negative log-density, nats per image"
    random = RandomSpec()

    def loss(self, model: Callable, batch, optimizer: str):
        """-log p(x)."""
        return {"loss": -model(batch.data)}

    def held_out_loss(self, model, batch):
        """-log p(x)."""
        return {"loss": -model(batch.data)}

    def pipeline(self, module):
        """The model as it is."""
        return PPCAPipeline(module)

    def preview(self, module):
        """64 samples."""
        generators = [torch.Generator().manual_seed(i) for i in range(PREVIEWS)]
        return unit_to_uint8(PPCAPipeline(module)(generators=generators).images).cpu()


class PPCASampler:
    """One step, and a choice of its own."""

    calls, fixed_batch, class_names = 0, False, None

    def __init__(self, pipeline, options: PPCASampling):
        self.pipeline, self.temperature = pipeline, options.temperature
        self.how = f"ancestral, temperature {options.temperature:g}"

    def draw(self, generators, first, on_step=None):
        """mu + temperature W z."""
        model = self.pipeline.model
        mean = (model.mu / 2 + 0.5).view(1, *(model.config[k] for k in ("in_channels", "sample_size", "sample_size")))
        images = self.pipeline(len(generators), generators).images
        return (mean + self.temperature * (images - mean)).detach().clamp(0, 1)

    def warm_up(self, generators, first):
        """None is needed."""

    def labels(self, count):
        """There are no classes."""


class PPCA(Family):
    """Probabilistic PCA."""

    name, title, network = "ppca", "probabilistic PCA", "model"
    own_code: ClassVar = {CLASS: MODULE, "PPCAModel": MODULE}
    model_flags, sampling_options = PPCAFlags, PPCASampling
    likelihood_kind = "exact"

    def claims(self, index):
        return index.get("_class_name") in (CLASS, [MODULE, CLASS])

    def files(self, index):
        return ("model/config.json", "model/diffusion_pytorch_model.safetensors")

    def load(self, folder, index, variant):
        return PPCAPipeline(PPCAModel.from_pretrained(folder, subfolder="model", use_safetensors=True, variant=variant))

    def model_config(self, config, pretrained):
        return {"latent_size": config.model.latent_size}

    def build(self, config, model_config, images, pretrained):
        return PPCAModel(in_channels=images.channels, sample_size=images.resolution, **model_config)

    def task(self, config, module, images):
        return PPCATask(shape=images.shape)

    def sampler(self, pipeline, options, compile=False):
        return PPCASampler(pipeline, options)

    @torch.no_grad()
    def likelihood(self, pipeline, data, settings):
        start = time.perf_counter()
        rows = torch.arange(len(data.images)).split(settings.batch_size or 100)
        model = pipeline.model.double()
        nll = torch.cat([-model(to_model_range(pixels).double()) for pixels in data.images.batches(rows)])
        model.float()
        metric = Metric(
            name="negative log-density (exact; of continuous pixels, no NLL of 8-bit ones)",
            mean=nll.mean().item(),
            standard_error=(nll.std() / math.sqrt(len(nll))).item(),
            unit="nats/image",
            role="log-likelihood",
        )
        return LikelihoodResult(
            quantity="log-density of pixels in [-1, 1]",
            likelihood="Gaussian",
            how="exact",
            metrics={"negative_log_density": metric},
            seconds=time.perf_counter() - start,
        )

    def card(self, pipeline, name, training, results):
        latents = pipeline.model.config.latent_size
        return Card(
            summary=f"Probabilistic PCA (Tipping & Bishop 1999) with {latents} latents.",
            usage=f'With the file that defines it:\n\n```python\nmodel = hfgen.load("{name}")\n```\n\nOn the command line:\n',
            samples="Means of p(x|z), z ~ N(0, I).",
            limits=["It is linear."],
            tags=["ppca"],
        )

    def figures(self, pipeline, data, out, seed, training):
        generators = [torch.Generator().manual_seed(seed + i) for i in range(PREVIEWS)]
        save_png(image_grid(unit_to_uint8(pipeline(generators=generators).images)), out / "samples.png")
        return [out / "samples.png"]
