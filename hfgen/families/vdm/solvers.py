"""The solvers of diffusers on a variational diffusion model: a chain of its schedule, and its network told timesteps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from diffusers import DDPMScheduler
from diffusers.models.unets.unet_2d import UNet2DOutput

from hfgen.families.ddpm.class_conditional import ClassConditionalSampler
from hfgen.families.ddpm.sampler import DiffusionSampler
from hfgen.families.vdm.flags import VDMSampling
from hfgen.families.vdm.sampler import check_classes
from hfgen.pipelines import ClassConditionalDDPMPipeline, UnconditionalDiffusionPipeline
from hfgen.pipelines.pipeline_hfgen_vdm import VDMPipeline, betas_of

NUM_STEPS = 1000


def solver_sampler(pipeline: VDMPipeline, options: VDMSampling) -> DiffusionSampler:
    """Draws by a solver of diffusers: bin centres, whose nearest 8-bit values are those of the bins.

    Errors as `DiffusionSampler` and `ClassConditionalSampler`.
    """
    check_classes(pipeline, options)
    network, scheduler = TimestepNetwork(pipeline.vdm), chain(pipeline.vdm)
    if not pipeline.class_names:
        return DiffusionSampler(UnconditionalDiffusionPipeline(network, scheduler), options)
    return ClassConditionalSampler(ClassConditionalDDPMPipeline(network, scheduler, pipeline.class_names), options)


@torch.no_grad()
def chain(vdm: Any) -> DDPMScheduler:
    """gamma(0), ..., gamma(1) in equal parts of t as a scheduler's betas. They are float32 there: for samples, not for bounds."""
    gamma = vdm.schedule(torch.linspace(0, 1, NUM_STEPS, dtype=torch.float64, device=vdm.device))
    betas = betas_of(gamma).tolist()
    return DDPMScheduler(NUM_STEPS, trained_betas=betas, prediction_type=vdm.config.prediction_type)


class TimestepNetwork(torch.nn.Module):
    """A `VDMModel` in the place of a `UNet2DModel`: told timesteps of `chain`, fractional ones too."""

    def __init__(self, vdm: Any):
        super().__init__()
        self.vdm, config = vdm, vdm.config
        self.config = SimpleNamespace(
            in_channels=config.in_channels,
            sample_size=config.sample_size,
            num_class_embeds=config.num_classes and config.num_classes + 1,
            time_embedding_type="positional",
        )

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        return self.vdm.device

    @property
    def dtype(self) -> torch.dtype:
        """Of z: features of narrow numbers would be noise."""
        return torch.float32

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, class_labels: torch.Tensor | None = None
    ) -> UNet2DOutput:
        """As `VDMModel`, of z (B, C, H, W) and a timestep or one for each row."""
        t = torch.as_tensor(timestep, device=sample.device).float() / (NUM_STEPS - 1)
        return self.vdm(sample, self.vdm.schedule(t.reshape(-1)).expand(len(sample)), class_labels)
