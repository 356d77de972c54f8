"""Variational diffusion models (Kingma et al. 2021): a learned noise schedule, continuous time, a decoder over 256 values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from hfgen.core.errors import HfgenError
from hfgen.families.base import Family
from hfgen.families.vdm.flags import VDMFlags, VDMLikelihood, VDMSampling

PIPELINE, MODULE, MODEL_MODULE = "VDMPipeline", "pipeline_hfgen_vdm", "modeling_hfgen_vdm"


class VDM(Family):
    """A variational diffusion model. Each method imports what it needs: a command line has the flags at once."""

    name = "vdm"
    title = "variational diffusion"
    network = "vdm"
    model_flags = VDMFlags
    sampling_options = VDMSampling
    likelihood_options = VDMLikelihood
    own_code: ClassVar[Mapping[str, str]] = {PIPELINE: MODULE, "VDMModel": MODEL_MODULE}

    def for_training(self, config):
        from hfgen.families.registry import get_family

        return self if config.model.autoencoder is None else get_family("latent_vdm")

    def claims(self, index):
        return index.get("_class_name") in (PIPELINE, [MODULE, PIPELINE])

    def files(self, index):
        return ("vdm/config.json", "vdm/diffusion_pytorch_model*.safetensors")

    def load(self, folder, index, variant):
        from hfgen.families.vdm.loading import load_pipeline

        return load_pipeline(folder, index, variant)

    def presets(self):
        from hfgen.models.vdm_presets import VDMS_FOR

        return VDMS_FOR

    def model_config(self, config, pretrained):
        from hfgen.families.vdm.task import initial_config

        return initial_config(config.model, pretrained)

    def build(self, config, model_config, images, pretrained):
        from hfgen.families.vdm.task import initial_model

        return initial_model(
            config.model, model_config, images, len(self.class_names(config, images)) or None, pretrained
        )

    def class_names(self, config, images) -> list[str]:
        """Of the classes that the network is told; none without class_conditional. `HfgenError` where the images have none."""
        return images.told_classes() if config.model.class_conditional else []

    def task(self, config, module, images):
        from hfgen.families.vdm.task import make_task

        return make_task(config, module, images, self.class_names(config, images))

    def sampler(self, pipeline, options, compile=False):
        from hfgen.families.vdm.sampler import VDMSampler
        from hfgen.families.vdm.solvers import solver_sampler

        if compile:
            raise HfgenError("compile: not for variational diffusion models, leave it out")
        if options.scheduler is not None:
            return solver_sampler(pipeline, options)
        return VDMSampler(pipeline, options)

    def likelihood(self, pipeline, data, settings):
        from hfgen.families.vdm.bound import evaluate_bound

        return evaluate_bound(pipeline.vdm, data, settings, pipeline.class_names)

    def plot_likelihood(self, result, path):
        if result.likelihood is None or result.likelihood.terms is None:
            return False
        result.plot(path)
        return True

    def card(self, pipeline, name, training, results):
        from hfgen.families.vdm.card import vdm_card

        return vdm_card(pipeline, name, results)

    def figures(self, pipeline, data, out, seed, training):
        from hfgen.families.vdm.figures import save_vdm_figures

        return save_vdm_figures(self, pipeline, data, out, seed, training)
