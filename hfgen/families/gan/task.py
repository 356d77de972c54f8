"""How a GAN is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from hfgen.configs.training import TrainingConfig
from hfgen.core.media import unit_to_uint8
from hfgen.data.batch import Batch, RandomSpec
from hfgen.data.training_set import TrainingSet
from hfgen.drawing.draw import image_generators
from hfgen.families.base import PREVIEWS, Terms
from hfgen.families.gan.flags import GANFlags
from hfgen.models.gan_presets import DISCRIMINATOR, load_gan_config
from hfgen.objectives.adversarial import ADVERSARIAL, AdversarialLoss, r1_penalty
from hfgen.pipelines.pipeline_hfgen_gan import GANPipeline


@dataclass(frozen=True, kw_only=True)
class GANTask:
    """Two networks that play against each other, in turns of a step each.

    Attributes:
        latent_size: of the noise.
        r1_gamma, r1_interval: weight of the R1 penalty, which is taken in one of so many steps, and there so many times.
        class_names: that both networks are told; none: they are told nothing.
    """

    objective: AdversarialLoss
    latent_size: int
    r1_gamma: float
    r1_interval: int
    seed: int
    class_names: tuple[str, ...]
    terms = ("loss", "discriminator", "generator", "r1")
    ylabel = "adversarial losses, which are no likelihood"
    optimizers = ("discriminator", "generator")
    states = MappingProxyType({})

    @property
    def random(self) -> RandomSpec:
        """Noise for each row; made images have the classes of the real ones beside them."""
        return RandomSpec(normal={"noise": (self.latent_size,)})

    def to(self, device: torch.device) -> None:
        """Nothing to move."""

    def parameters(self, module: torch.nn.Module, optimizer: str):
        """Those of the network of that name."""
        return list(getattr(module, optimizer).parameters())

    def loss(self, model: Callable, batch: Batch, optimizer: str) -> Terms:
        """In the discriminator's turn its loss and the penalty, in the generator's its own."""
        noise, labels = batch.random["noise"], self._labels(batch)
        if optimizer == "generator":
            loss = self.objective.generator(model(noise, labels))
            return {"loss": loss, "generator": loss}
        penalised = self.r1_gamma > 0 and batch.step % self.r1_interval == 0
        real = batch.data.detach().requires_grad_(penalised)
        on_real, on_made = model(noise, labels, real).chunk(2)
        loss = self.objective.discriminator(on_real, on_made)
        if not penalised:
            return {"loss": loss, "discriminator": loss}
        penalty = self.r1_interval * self.r1_gamma / 2 * r1_penalty(on_real, real)
        return {"loss": loss + penalty, "discriminator": loss, "r1": penalty}

    def held_out_loss(self, model: Callable, batch: Batch) -> Terms:
        """The losses of both, without the penalty."""
        on_real, on_made = model(batch.random["noise"], self._labels(batch), batch.data).chunk(2)
        parts = {
            "discriminator": self.objective.discriminator(on_real, on_made),
            "generator": self.objective.generator(on_made),
        }
        return {"loss": sum(parts.values()), **parts}

    def _labels(self, batch: Batch) -> torch.Tensor | None:
        return batch.cond["class_labels"] if self.class_names else None

    def end_step(self) -> None:
        """Nothing to do."""

    def pipeline(self, module: torch.nn.Module) -> GANPipeline:
        """The generator with the names of the classes."""
        return GANPipeline(module.generator, list(self.class_names) or None)

    def preview(self, module: torch.nn.Module) -> torch.Tensor:
        """64 samples, of all classes in turn."""
        names, pipeline = self.class_names, self.pipeline(module)
        wanted = [i % len(names) for i in range(PREVIEWS)] if names else None
        generators = image_generators(module.device, self.seed, 0, PREVIEWS)
        return unit_to_uint8(pipeline(PREVIEWS, generators, wanted, output_type="pt").images).cpu()


def make_task(config: TrainingConfig, module: Any, images: TrainingSet, class_names: list[str]) -> GANTask:
    """The task of the flags."""
    model = config.model
    return GANTask(
        objective=ADVERSARIAL[model.loss_type](),
        latent_size=module.generator.config.latent_size,
        r1_gamma=model.r1_gamma,
        r1_interval=model.r1_interval,
        seed=config.optimization.seed,
        class_names=tuple(class_names),
    )


def initial_config(model: GANFlags) -> dict[str, Any]:
    """The config to build: a preset's or a file's, with what the flags change of it; empty where none is named."""
    name = model.model_config_name_or_path
    config = {} if name is None else load_gan_config(name)
    if model.spectral_norm and isinstance(config.get(DISCRIMINATOR, {}), dict):
        config[DISCRIMINATOR] = {**config.get(DISCRIMINATOR, {}), "spectral": True}
    return config
