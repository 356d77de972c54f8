"""Diffusion models that are told classes, with classifier-free guidance (Ho & Salimans 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from hfgen.families.ddpm import DDPM
from hfgen.families.ddpm.flags import ClassConditionalSampling

PIPELINE, MODULE = "ClassConditionalDDPMPipeline", "pipeline_hfgen_class_conditional"


class ClassConditionalDDPM(DDPM):
    """A diffusion model of p(x | class) and, with the class withheld, of p(x)."""

    name = "class_conditional_ddpm"
    title = "class-conditional diffusion"
    sampling_options = ClassConditionalSampling
    own_code: ClassVar[Mapping[str, str]] = {**DDPM.own_code, PIPELINE: MODULE}

    def claims(self, index):
        return index.get("_class_name") in (PIPELINE, [MODULE, PIPELINE])

    def for_repository(self, folder, index):
        return self

    def load(self, folder, index, variant):
        from hfgen.pipelines import ClassConditionalDDPMPipeline

        return ClassConditionalDDPMPipeline.from_pretrained(folder, use_safetensors=True, variant=variant)

    def num_classes(self, images):
        return len(images.told_classes())

    def task(self, config, module, images):
        from hfgen.families.ddpm.class_conditional import ClassConditionalDDPMTask
        from hfgen.families.ddpm.task import task_settings

        return ClassConditionalDDPMTask(
            **task_settings(config, images),
            class_names=tuple(images.class_names),
            class_dropout=config.model.class_dropout,
        )

    def sampler(self, pipeline, options, compile=False):
        from hfgen.families.ddpm.class_conditional import ClassConditionalSampler

        return ClassConditionalSampler(pipeline, options, compile)

    def likelihood(self, pipeline, data, settings):
        from hfgen.families.ddpm.bound import Classes, check_first_timestep, evaluate_bound

        check_first_timestep(pipeline.unet)
        return evaluate_bound(Classes(pipeline.unet, pipeline.class_names), pipeline.scheduler, data, settings)
