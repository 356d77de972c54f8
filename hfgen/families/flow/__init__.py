"""Coupling flows: an exact density of dequantised pixels by an invertible map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from hfgen.core.errors import HfgenError
from hfgen.families.base import Family
from hfgen.families.flow.flags import FlowFlags, FlowLikelihood, FlowSampling

PIPELINE, MODULE, MODEL_MODULE = "FlowPipeline", "pipeline_hfgen_flow", "modeling_hfgen_flow"


class Flow(Family):
    """A multi-scale coupling flow. Each method imports what it needs: a command line has the flags at once."""

    name = "flow"
    title = "flow"
    network = "flow"
    model_flags = FlowFlags
    sampling_options = FlowSampling
    likelihood_options = FlowLikelihood
    likelihood_kind = "exact density of pixels with noise added, which is a bound of 8-bit ones"
    own_code: ClassVar[Mapping[str, str]] = {PIPELINE: MODULE, "FlowModel": MODEL_MODULE}

    def claims(self, index):
        return index.get("_class_name") in (PIPELINE, [MODULE, PIPELINE])

    def files(self, index):
        return ("flow/config.json", "flow/diffusion_pytorch_model*.safetensors")

    def load(self, folder, index, variant):
        from hfgen.families.flow.loading import load_pipeline

        return load_pipeline(folder, variant)

    def presets(self):
        from hfgen.models.flow_presets import FLOWS_FOR

        return FLOWS_FOR

    def model_config(self, config, pretrained):
        from hfgen.families.flow.task import initial_config

        return initial_config(config.model, pretrained)

    def build(self, config, model_config, images, pretrained):
        from hfgen.families.flow.task import initial_model

        return initial_model(config, model_config, images, pretrained)

    def task(self, config, module, images):
        from hfgen.families.flow.task import make_task

        return make_task(config, module, images)

    def sampler(self, pipeline, options, compile=False):
        from hfgen.families.flow.sampler import FlowSampler

        if compile:
            raise HfgenError("compile: a flow draws an image in one step, there is nothing to compile: leave it out")
        return FlowSampler(pipeline, options)

    def likelihood(self, pipeline, data, settings):
        from hfgen.families.flow.bounds import evaluate_bounds

        return evaluate_bounds(pipeline.flow, data, settings)

    def card(self, pipeline, name, training, results):
        from hfgen.families.flow.card import flow_card

        return flow_card(pipeline.flow, name, results)

    def figures(self, pipeline, data, out, seed, training):
        from hfgen.families.flow.figures import save_flow_figures

        return save_flow_figures(pipeline, out, seed)
