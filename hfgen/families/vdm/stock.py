"""What `VDMPipeline.to_ddpm` leaves: a chain of a learned schedule in a repository that diffusers loads, with the bound of a VDM."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hfgen.configs.flags import at_least, flag
from hfgen.families.ddpm import DDPM
from hfgen.families.vdm.flags import LEAST_EVALUATIONS, VDMLikelihood


@dataclass(frozen=True, kw_only=True)
class StockVDMLikelihood:
    """How its bound is evaluated."""

    evaluations: int = flag(
        100_000, "network evaluations for the bound, over all images", range=at_least(LEAST_EVALUATIONS)
    )


class StockVDM(DDPM):
    """A stock `DDPMPipeline` whose images are bin centres, and whose last step is the decoder over 256 values."""

    name = "stock_vdm"
    title = "variational diffusion without code"
    likelihood_options = StockVDMLikelihood

    def claims(self, index):
        """None by its index: what `DDPM` claims is of this kind where the scheduler's config says so."""
        return False

    def likelihood(self, pipeline, data, settings):
        from hfgen.families.vdm.bound import evaluate_bound
        from hfgen.families.vdm.chain import Chain

        chain = Chain(pipeline)
        options = VDMLikelihood(evaluations=settings.options.evaluations, bound_steps=len(chain.schedule.gamma) - 1)
        return evaluate_bound(chain, data, replace(settings, options=options))
