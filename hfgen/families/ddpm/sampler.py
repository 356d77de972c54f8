"""How images are drawn from a diffusion model."""

from __future__ import annotations

import copy
from typing import Any

import torch

from hfgen.core.errors import NO_MEMORY, HfgenError, one_line
from hfgen.drawing.compiled import compile_now, compile_unet, is_compiled
from hfgen.drawing.sampler import fitting
from hfgen.families.ddpm.flags import DiffusionSampling
from hfgen.pipelines.denoising import check_inputs, set_timesteps
from hfgen.schedulers.own import own_sampler, own_steps
from hfgen.schedulers.samplers import default_sampler, default_steps, make_sampler


class DiffusionSampler:
    """Draws with a solver of diffusers, or with the model's own scheduler where no solver converts from it; the pipeline that it
    is given stays as it is.

    Raises `HfgenError` for a solver or steps that the model cannot have.
    """

    class_names: list[str] | None = None

    def __init__(self, pipeline: Any, options: DiffusionSampling, compile: bool = False):
        name, scheduler = options.scheduler or default_sampler(pipeline.scheduler), pipeline.scheduler
        self.pipeline = copy.copy(pipeline)
        self.pipeline.scheduler = own_sampler(scheduler) if name is None else make_sampler(name, scheduler)
        self.pipeline.set_progress_bar_config(disable=True)
        self.eta = options.eta or 0.0
        steps = own_steps(scheduler) if name is None else default_steps(name, scheduler.config.num_train_timesteps)
        self.steps = options.steps or steps
        self.how = f"{name or type(scheduler).__name__}, {self.steps} steps{f', eta {self.eta:g}' if self.eta else ''}"
        check_call(self.pipeline, self.steps, self.eta)
        try:
            self.calls = len(set_timesteps(self.pipeline, self.steps))
        except ValueError as error:
            raise HfgenError(one_line(error)) from error
        self.compile = compile

    @property
    def fixed_batch(self) -> bool:
        """A compiled network is compiled anew for each size of a batch."""
        return self.compile or is_compiled(self.pipeline.unet)

    def labels(self, count: int) -> torch.Tensor | None:
        """None: there are no classes."""
        return None

    def arguments(self, first: int, count: int) -> dict[str, Any]:
        """What the pipeline is called with for images first..first+count-1."""
        return {"batch_size": count}

    def draw(self, generators, first, on_step=None) -> torch.Tensor:
        """As `Sampler.draw`."""
        try:
            with fitting(len(generators), self.pipeline.device):
                return self._draw(generators, first, self.steps, on_step)
        except (ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
            if NO_MEMORY.search(str(error)):
                raise
            # of a config that does not go together network and scheduler say anything, and only now
            raise HfgenError(
                f"{self.how}: network and scheduler do not go together ({type(error).__name__}: {one_line(error, 200)}): mend "
                "their configs, or choose another --scheduler"
            ) from error

    def warm_up(self, generators, first) -> None:
        """A first step, in which the network is compiled; not before, as a likelihood may be measured in between."""
        if self.compile:
            compile_unet(self.pipeline.unet)
        if self.fixed_batch:
            compile_now(lambda: self._draw(generators, first, 1, None))

    def _draw(self, generators, first, steps, on_step) -> torch.Tensor:
        def callback(_pipeline, step, _timestep, tensors):
            on_step(step, tensors["latents"])

        return self.pipeline(
            **self.arguments(first, len(generators)),
            generator=generators,
            num_inference_steps=steps,
            eta=self.eta,
            output_type="pt",
            callback_on_step_end=callback if on_step is not None else None,
        ).images


def check_call(pipeline: Any, steps: int, eta: float) -> None:
    """Raise `HfgenError` for steps beyond the training's, and for eta of a scheduler without it."""
    try:
        check_inputs(pipeline, batch_size=1, generator=None, num_inference_steps=steps, eta=eta, output_type="pt")
    except ValueError as error:
        raise HfgenError(one_line(error)) from error
