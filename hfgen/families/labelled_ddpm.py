"""Class-conditional diffusion models of others: a stock `UNet2DModel` that is told labels, in whatever stock pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from hfgen.core.errors import HfgenError
from hfgen.families.base import Card
from hfgen.families.ddpm import DDPM
from hfgen.families.ddpm.flags import ClassConditionalSampling


class LabelledDDPM(DDPM):
    """A diffusion model of p(x | class), which has no label for no class: no guidance, and no p(x)."""

    name = "labelled_ddpm"
    title = "class-conditional diffusion of others"
    sampling_options = ClassConditionalSampling
    no_likelihood: ClassVar[str | None] = (
        "this network always wants a class, and hfgen measures no likelihood of images given their class"
    )

    def claims(self, index):
        """None by its index: what `DDPM` claims is of this kind where the network's config says so."""
        return False

    def load(self, folder: Path, index: Mapping[str, Any], variant: str | None):
        from hfgen.families.ddpm.loading import load_scheduler, load_unet
        from hfgen.pipelines.labelled import LabelledDiffusionPipeline

        unet = load_unet(folder, variant)
        if unet.config.class_embed_type is not None:
            raise HfgenError(
                f"{folder}: class_embed_type is {unet.config.class_embed_type!r} in unet/config.json, which does not say how many "
                "classes there are: hfgen samples networks with num_class_embeds alone"
            )
        return LabelledDiffusionPipeline(unet, load_scheduler(folder, index))

    def for_training(self, config):
        raise HfgenError(f"{self.name} is not trained by hfgen: train class_conditional_ddpm")

    def sampler(self, pipeline, options, compile=False):
        from hfgen.families.ddpm.class_conditional import ClassConditionalSampler

        if options.guidance_scale not in (None, 1):
            raise HfgenError(
                f"guidance_scale={options.guidance_scale:g}: this network has no label for no class, which guidance needs: "
                "leave it out"
            )
        return ClassConditionalSampler(pipeline, options, compile)

    def card(self, pipeline, name, training, results):
        from hfgen.families.ddpm.card import HFGEN_CODE, diffusion_summary

        count = len(pipeline.class_names)
        return Card(
            summary=diffusion_summary(pipeline, f", told one of {count:,} classes by number"),
            usage=HFGEN_CODE.format(name=name, more=', class_labels=["0"]'),
            samples="Samples, not selected.",
            tags=["ddpm"],
        )
